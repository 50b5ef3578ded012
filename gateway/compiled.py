"""The hot modules as machine code, where ``make compile`` has made it. Nothing here needs a third party.

What was compiled lies in a folder of its own, never beside the sources, with a stamp that says what it was
made of. It is taken only if every source is still the same, byte for byte. So whoever edits a file runs what
the file says, and is told how to compile it anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "GATEWAY_COMPILED"
"""In the environment: ``off``, or another folder than the usual one."""
STAMP: Final = "stamp.json"
PACKAGE: Final = Path(__file__).parent
USUAL: Final = PACKAGE.parent / ".compiled"
SUFFIX: Final = EXTENSION_SUFFIXES[0]
"""Of compiled modules; it says for which Python, operating system and processor they are."""
APART: Final = ("chat/", "engine/", "supervisor.py")
"""Programs of their own: what changes in them does not concern the gateway's modules."""


@dataclass(frozen=True)
class Code:
    """How many modules are run as machine code; where that was meant and is not so, why."""

    modules: int
    why_not: str | None = None

    def __str__(self) -> str:
        return f"compiled, {self.modules} modules" if self.modules else "interpreted"


def use() -> Code:
    """Have the compiled modules imported in place of their sources, if there are any that fit."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "off":
        return Code(0)
    folder = Path(wanted) if wanted else USUAL
    if not wanted and not folder.exists():
        return Code(0)
    files, why_not = found(folder)
    if files:
        sys.meta_path.insert(0, _Finder(files))
    return Code(max(0, len(files) - 1), why_not)  # one is what all of them share


def found(folder: Path) -> tuple[Mapping[str, Path], str | None]:
    """The files of compiled modules in ``folder``, by the modules' names; or none of them, and why."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        why_not = outdated(stamp)
        files = {name: folder / file for name, file in stamp["modules"].items()}
    except FileNotFoundError:
        return {}, f"there is no {folder / STAMP}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return {}, f"{folder / STAMP} cannot be read ({error})"
    if why_not is None and (lost := [file.name for file in files.values() if not file.exists()]):
        why_not = f"{lost[0]} is gone"
    return ({}, why_not) if why_not is not None else (files, None)


def outdated(stamp: Mapping[str, Any]) -> str | None:
    """Why what has this stamp must not be used any more; None when it may be."""
    if stamp["suffix"] != SUFFIX:
        return f"it was compiled for another Python ({stamp['suffix']}, this one is {SUFFIX})"
    then, now = stamp["sources"], dict(sources())
    changed = sorted(path for path in then.keys() | now.keys() if then.get(path) != now.get(path))
    return f"gateway/{changed[0]} has changed since" if changed else None


def sources() -> Iterator[tuple[str, str]]:
    """(path within the package, digest) of every source that compiled modules may have something from."""
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(APART):
            yield name, hashlib.sha256(path.read_bytes()).hexdigest()


class _Finder(MetaPathFinder):
    """Knows the compiled modules by their full names."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        file = self._files.get(fullname)
        return None if file is None else spec_from_file_location(fullname, file)
