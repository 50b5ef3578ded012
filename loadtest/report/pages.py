"""Which pages a run gives, in both languages, and what it says in a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from loadtest.report import compare_page, run_page, soak_page
from loadtest.report.words import Say
from loadtest.results import Results

TONGUES: Final = (Say("en"), Say("zh"))


class Writer(Protocol):
    """What a module for one kind of run has."""

    NAME: str

    def draw(self, found: Results, folder: Path) -> list[Path]: ...
    def page(self, found: Results, say: Say) -> str: ...
    def in_short(self, found: Results, say: Say) -> list[str]: ...


WRITERS: Final[Mapping[str, Writer]] = {"run": run_page, "soak": soak_page, "compare": compare_page}


def write(found: Results, docs: Path) -> list[Path]:
    """The pages and plots of one run, into a folder of documents."""
    writer = WRITERS[found.kind]
    written = writer.draw(found, docs / "img")
    for say in TONGUES:
        path = docs / f"{writer.NAME}{say.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(writer.page(found, say), encoding="utf-8")
        written.append(path)
    return written


def verdict(found: Results) -> list[str]:
    """For the terminal."""
    return WRITERS[found.kind].in_short(found, TONGUES[0])
