"""The programs that are not Python of ours: built or installed once, and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from gateway.compiled import SUFFIX, found

VLLM_ROUTER = "0.1.17"
LITELLM = "1.80.0"  # there was an incident with a later release: read of it before you raise this
PY_SPY = "0.4.3"
_COMPILE = Path(__file__).parents[2] / "scripts" / "compile.py"
_GO = Path(__file__).parent / "go"


@dataclass(frozen=True, slots=True)
class Parts:
    """Paths of executables; None for a contender that is not there."""

    source: Path
    load: Path
    nginx: str | None
    vllm_router: Path | None
    litellm: Path | None = None
    compiled: Path | None = None
    """The folder of the gateway's compiled modules."""


def go_parts() -> Parts:
    """The source and the load client alone."""
    built = _built(_cache())
    return Parts(built / "source", built / "load", None, None)


def prepare(*, litellm: bool = False) -> Parts:
    """Raises RuntimeError when what measures cannot be built; says which contender is left out, and why."""
    folder = _cache()
    built = _built(folder)
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if nginx is None:
        print("nginx is left out: it is not installed (apt-get install nginx-light)")
    router = _installed(folder, "vllm-router", VLLM_ROUTER)
    other = _installed(folder, "litellm", LITELLM, extra="[proxy]") if litellm else None
    return Parts(built / "source", built / "load", nginx, router, other, compiled())


def compiled() -> Path | None:
    """The gateway's hot modules, compiled from the sources as they are now; None, and a word why, otherwise.

    Built once into the cache, and anew when a source has changed.
    """
    folder = _cache() / f"compiled{SUFFIX.removesuffix('.so')}"
    files, _ = found(folder)
    if files:
        return folder
    done = subprocess.run([sys.executable, _COMPILE, folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"the compiled gateway is left out: {(done.stderr.strip() or 'unknown').splitlines()[-1]}")
        return None
    return folder


def py_spy() -> Path | None:
    """The sampling profiler; None, and a word why, when it cannot be had."""
    return _installed(_cache(), "py-spy", PY_SPY)


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


def _installed(folder: Path, name: str, version: str, extra: str = "") -> Path | None:
    """In an environment of its own: the gateway's must not change for a measurement."""
    place = folder / f"{name}-{version}"
    program = place / "bin" / name
    if not program.exists():
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        wanted = f"{name}{extra}=={version}"
        if subprocess.run([place / "bin" / "pip", "-q", "install", wanted], check=False).returncode:
            shutil.rmtree(place)
            print(f"{name} is left out: {wanted} cannot be installed here")
            return None
    return program
