"""The programs that are not Python of ours: built or installed once, and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

VLLM_ROUTER = "0.1.17"
_GO = Path(__file__).parent / "go"


@dataclass(frozen=True, slots=True)
class Parts:
    """Paths of executables; None for a contender that is not there."""

    source: Path
    load: Path
    nginx: str | None
    vllm_router: Path | None


def prepare() -> Parts:
    """Raises RuntimeError when what measures cannot be built; says which contender is left out, and why."""
    folder = _cache()
    built = _built(folder)
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if nginx is None:
        print("nginx is left out: it is not installed (apt-get install nginx-light)")
    return Parts(built / "source", built / "load", nginx, _vllm_router(folder))


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "unified-llm-gateway" / "overhead"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _built(folder: Path) -> Path:
    """The source of tokens and the load client, in Go. A change of their source builds them anew."""
    digest = hashlib.sha256()
    for path in sorted(_GO.rglob("*.go")):
        digest.update(path.read_bytes())
    target = folder / f"go-{digest.hexdigest()[:12]}"
    if not (target / "load").exists():
        go = shutil.which("go")
        if go is None:
            raise RuntimeError("Go is not installed; the token source and the load client are written in it.")
        target.mkdir(exist_ok=True)
        subprocess.run([go, "build", "-o", f"{target}/", "./..."], cwd=_GO, check=True)
    return target


def _vllm_router(folder: Path) -> Path | None:
    """In an environment of its own: the gateway's must not change for a measurement."""
    place = folder / f"vllm-router-{VLLM_ROUTER}"
    program = place / "bin" / "vllm-router"
    if not program.exists():
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        wanted = f"vllm-router=={VLLM_ROUTER}"
        if subprocess.run([place / "bin" / "pip", "-q", "install", wanted], check=False).returncode:
            shutil.rmtree(place)
            print(f"vllm-router is left out: {wanted} cannot be installed here")
            return None
    return program
