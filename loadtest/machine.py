"""What a run was measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import processor
from loadtest.cards import Cards
from loadtest.stand import REPOSITORY

_PACKAGES = ("fastapi", "uvicorn", "uvloop", "httptools", "locust", "gevent", "geventhttpclient", "openai")


def describe() -> dict[str, Any]:
    cards = Cards()
    found = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: known for name in _PACKAGES if (known := _version(name))},
        "gpus": cards.names(),
        "commit": commit(REPOSITORY),
        "load": list(os.getloadavg()),
    }
    cards.close()
    return found


def commit(tree: Path) -> str:
    """The short name of what is checked out, with a plus sign where files differ from it."""
    try:
        name = _git(tree, "rev-parse", "--short", "HEAD")
        changed = _git(tree, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}+" if changed else name


def _git(tree: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=tree, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
