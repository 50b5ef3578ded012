#!/usr/bin/env python3
"""Compile the gateway's hot modules with mypyc: ``scripts/compile.py [FOLDER]``, as ``make compile`` does.

Into FOLDER (``.compiled``) go the modules, as machine code, and the stamp by which ``gateway/compiled.py``
knows whether they still fit. All are compiled as one group: calls from one to another are plain calls of C.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["GATEWAY_COMPILED"] = "off"

from gateway import compiled  # noqa: E402
from scripts.native_records import native  # noqa: E402

GROUP = "gateway_compiled"
# What a request or a token passes through. Not here: modules with asynchronous generators, which mypyc
# cannot compile; pydantic's models, which make themselves at run time; errors, whose defaults are attributes
# of their classes (what is raised would lack them); what is not hot.
MODULES = [
    "aliases",
    "answers",
    "api.labels",
    "api.names",
    "api.receipt_lines",
    "api.stops",
    "api.tgi_answers",
    "api.tgi_events",
    "api.tgi_requests",
    "capabilities",
    "connections",
    "fastpath.accounts",
    "fastpath.entry",
    "fastpath.heads",
    "fastpath.passage",
    "fastpath.routes",
    "fastpath.settled",
    "fastpath.tails",
    "fastpath.text_wish",
    "fastpath.wish_anthropic",
    "fastpath.wish_native",
    "fastpath.wish_openai",
    "fastpath.wish_tgi",
    "fastpath.wishes",
    "fastpath.written_wish",
    "journey",
    "logs",
    "metrics_cells",
    "preparing",
    "replicas",
    "routing",
    "scenarios",
    "scheduler",
    "schemas",
    "switching.admission",
    "switching.books",
    "switching.history",
    "switching.lifecycle",
    "switching.moments",
    "switching.outlook",
    "switching.places",
    "switching.promises",
    "switching.vocabulary",
    "templates",
    "tickets",
    "turnstile",
    "upstream.alarms",
    "upstream.bodies",
    "upstream.calls",
    "upstream.connection",
    "upstream.pool",
    "upstream.push",
    "upstream.targets",
    "upstream.tgi_stream",
    "upstream.watch",
    "wire.heads",
    "wire.sse",
    "workers.owned",  # an interpreted class cannot be made of a compiled one
]


def main() -> int:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else compiled.USUAL).resolve()
    if missing := _missing():
        print(f"Nothing was compiled: {missing}", file=sys.stderr)
        return 3
    # Taken first: what changes while the compiler runs is then seen to have changed.
    stamp = {"suffix": compiled.SUFFIX, "sources": dict(compiled.sources())}
    with tempfile.TemporaryDirectory(prefix="compile-") as scratch:
        built = _built(Path(scratch))
        if built is None:
            return 1
        _put(built, stamp, target)
    print(f"Compiled {len(MODULES)} modules into {target}. GATEWAY_COMPILED=off runs the sources.")
    return 0


def _missing() -> str | None:
    """What the compiler needs and is not there, and how to get it."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler ({compiler}). On Debian: apt-get install -y gcc libc6-dev"
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if not header.exists():
        return f"Python's headers are missing ({header}). On Debian: apt-get install -y python3-dev"
    try:
        import mypyc.build  # noqa: F401
        import setuptools  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not in this environment. Run: make compile"
    return None


def _built(scratch: Path) -> Path | None:
    """The folder with what the compiler made; None when it has failed, and has said why."""
    copy = scratch / "sources"
    shutil.copytree(compiled.PACKAGE, copy / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for name in MODULES:
        path = copy / _path(name)
        path.write_text(native(path.read_text(encoding="utf-8")), encoding="utf-8")
    command = [sys.executable, __file__, "--within", str(scratch)]
    result = subprocess.run(command, cwd=copy, check=False, capture_output=True, text=True)
    if result.returncode == 0:
        return scratch / "lib"
    print(f"{result.stdout}{result.stderr}\nNothing was compiled: see above.", file=sys.stderr)
    return None


def _path(name: str) -> str:
    return f"gateway/{name.replace('.', '/')}.py"


def _within(scratch: Path) -> None:
    """In a process of its own: setuptools and mypyc read the command line and leave by ``sys.exit``."""
    from mypyc.build import mypycify
    from setuptools import setup

    sys.argv = [
        "compile.py",
        "--quiet",
        "build_ext",
        f"--build-lib={scratch}/lib",
        f"--build-temp={scratch}/o",
    ]
    # mypy's own cache is for other options: each would throw away the other's.
    options = [f"--cache-dir={ROOT}/.mypy_cache/compiled", *map(_path, MODULES)]
    extensions = mypycify(
        options, opt_level="2", debug_level="0", group_name=GROUP, target_dir=str(scratch / "c")
    )
    setup(name=GROUP, packages=[], ext_modules=extensions)


def _modules(built: Path) -> Iterator[tuple[str, Path]]:
    for path in built.rglob(f"*{compiled.SUFFIX}"):
        name = path.relative_to(built).as_posix().removesuffix(compiled.SUFFIX)
        yield name.replace("/", "."), path


def _put(built: Path, stamp: dict[str, object], target: Path) -> None:
    """Beside the place first, then into it: nobody finds half of it there."""
    fresh = target.with_name(f"{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    names = {}
    for name, path in _modules(built):
        names[name] = f"{name}{compiled.SUFFIX}"
        shutil.copy(path, fresh / names[name])
    stamp["modules"] = names
    (fresh / compiled.STAMP).write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--within"]:
        _within(Path(sys.argv[2]))
    else:
        sys.exit(main())
