"""What was measured, kept as JSON: each part is measured alone, and the page shows all of them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.machine import processor
from benchmarks.overhead.measure import Row
from benchmarks.overhead.parts import VLLM_ROUTER, Parts

FOLDER = Path(__file__).parent / "results"


def keep(name: str, found: dict[str, Any]) -> None:
    """Store one part's figures under ``name``, with the machine that they were measured on."""
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps({"measured_on": machine(), **found}, indent=1, ensure_ascii=False)
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def kept(name: str) -> dict[str, Any] | None:
    """What was kept under ``name``; None when that was never measured."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def of_rows(rows: list[Row]) -> list[dict[str, Any]]:
    return [
        {
            "name": row.name,
            "pooled": {name: round(value, 3) for name, value in row.pooled.items()},
            "rounds": [{name: round(value, 3) for name, value in one.items()} for one in row.rounds],
        }
        for row in rows
    ]


def rows_of(found: list[dict[str, Any]]) -> list[Row]:
    return [Row(one["name"], one["rounds"], one["pooled"]) for one in found]


def machine() -> dict[str, str]:
    names = ("fastapi", "uvicorn", "uvloop", "httptools", "httpx", "pydantic")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "when": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "libraries": ", ".join(f"{name} {version(name)}" for name in names),
        "load": load,
    }


def others(parts: Parts) -> str:
    """Names and versions of whoever else was measured."""
    found = []
    if parts.nginx is not None:
        found.append(_said(parts.nginx, "-v").replace("nginx version: ", "").replace("/", " "))
    if parts.vllm_router is not None:
        found.append(f"vllm-router {VLLM_ROUTER}")
    return ", ".join([*found, _said("go", "version")])


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return (done.stdout or done.stderr).strip()
