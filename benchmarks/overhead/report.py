"""The page: one table of figures, one of ratios, and what was measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from benchmarks.overhead.measure import RATE, STREAMS, TOKENS, Figures
from benchmarks.overhead.parts import VLLM_ROUTER

_COLUMNS: tuple[tuple[str, Callable[[Figures], float | None], str], ...] = (
    ("µs per request", lambda f: f.cpu_us_per_request, ".0f"),
    ("µs per streamed token", lambda f: f.cpu_us_per_token, ".1f"),
    ("requests/s", lambda f: f.requests_per_s, ",.0f"),
    ("p50 ms", lambda f: f.latency_p50_ms, ".2f"),
    ("p99 ms", lambda f: f.latency_p99_ms, ".2f"),
    ("tokens/s through", lambda f: f.tokens_through, ",.0f"),
    ("lag p50 ms", lambda f: f.lag_p50_ms, ".2f"),
    ("lag p99 ms", lambda f: f.lag_p99_ms, ".2f"),
    ("first token p50 ms", lambda f: f.first_p50_ms, ".1f"),
    ("memory MiB", lambda f: f.rss_mib, ".0f"),
)
_RIVALS = ("nginx proxy_pass", "vllm-router", "FastAPI + httpx")
_INTRO = f"""# What the gateway costs

One run, all on one machine, one after the other: `python -m benchmarks.overhead` (add `--quick` for two
minutes). The engine is a small Go program that writes TGI's bytes and stamps every token as it leaves; the
load client is Go as well. Everything of the gateway is on: validation, templates, admission, clocks, metrics,
receipts, an access log line per request.

* *µs* is processor time (user and system) of the whole process tree. It is what compares best: it depends
  little on what else the machine does.
* *per request*: a plain answer of {TOKENS} tokens, 64 connections in a closed loop. The gateway has the
  engine stream even then, all tokens at once here (that is how it knows the first token's instant and sees a
  dead engine); the others forward one body.
* *p50, p99*: of plain requests at a fixed 100 a second, counted from when each was due. "No gateway" is the
  engine alone: what is above it was added.
* *per streamed token*, *lag*, *first token*: {STREAMS} streams of {RATE} tokens/s. Lag is from the engine's
  write to the client's read.
* *memory*: resident, after all of that.

![processor time](img/overhead.svg)
"""


def table(rows: list[Figures]) -> str:
    head = "| way through | " + " | ".join(name for name, _, _ in _COLUMNS) + " |"
    lines = [head, "|---" * (len(_COLUMNS) + 1) + "|"]
    for row in rows:
        cells = [_cell(value(row), style) for _, value, style in _COLUMNS]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: float | None, style: str) -> str:
    return "–" if value is None else format(value, style)


def ratios(rows: list[Figures]) -> str:
    """Our rows against each rival: below 1 is cheaper, or sooner."""
    by_name = {row.name: row for row in rows}
    rivals = [by_name[name] for name in _RIVALS if name in by_name]
    head = (
        "| ours, as a multiple of | "
        + " | ".join(f"{name}: µs per request | per token" for name in (one.name for one in rivals))
        + " |"
    )
    lines = [head, "|---" * (1 + 2 * len(rivals)) + "|"]
    for row in rows:
        if row.name.startswith("gateway"):
            cells = [cell for one in rivals for cell in _against(row, one)]
            lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _against(ours: Figures, other: Figures) -> tuple[str, str]:
    return (
        _ratio(ours.cpu_us_per_request, other.cpu_us_per_request),
        _ratio(ours.cpu_us_per_token, other.cpu_us_per_token),
    )


def _ratio(ours: float | None, other: float | None) -> str:
    return "–" if not ours or not other else f"{ours / other:.2f}"


def page(rows: list[Figures], *, quick: bool) -> str:
    parts = [
        _INTRO,
        table(rows),
        "## Ratios\n",
        ratios(rows),
        "## Measured on\n",
        _machine(quick),
    ]
    return "\n".join(part if part.endswith("\n") else part + "\n" for part in parts)


def _machine(quick: bool) -> str:
    names = ("fastapi", "uvicorn", "uvloop", "httptools", "httpx", "pydantic")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    system = f"{platform.system()} {platform.release().split('-')[0]}"
    run = f"{'short' if quick else 'full'} run; load average at its end (1, 5, 15 minutes): {load}"
    lines = (
        f"{_processor()}, {os.cpu_count()} cores, {system}",
        f"Python {platform.python_version()}; {versions}",
        f"{_nginx()}, vllm-router {VLLM_ROUTER}, {_said('go', 'version')}",
        f"{run}. Above the number of cores, times are those of a crowded machine: only processor time counts",
    )
    return "\n".join(f"* {line}" for line in lines)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _nginx() -> str:
    return _said("/usr/sbin/nginx", "-v").replace("nginx version: ", "").replace("/", " ") or "no nginx"


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return (done.stdout or done.stderr).strip()


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
