"""What a run leaves: one folder with everything the report is made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.problems import Problem
from loadtest.records import Record, UnreadableRecords, read

FILE, VERSION = "results.json", 1


@dataclass(frozen=True, slots=True)
class PartData:
    """One part as it was kept: see ``PartResult``. ``raw`` has what is not named here."""

    stand: str
    name: str
    began: float
    ended: float
    samples: list[dict[str, Any]]
    records: list[Record]
    raw: dict[str, Any]

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True, slots=True)
class Results:
    """A whole run. ``head`` has kind, options, machine; ``checks`` is what was compared, for each stand."""

    folder: Path
    head: dict[str, Any]
    parts: list[PartData]

    @property
    def kind(self) -> str:
        return str(self.head["kind"])

    @property
    def checks(self) -> list[dict[str, Any]]:
        return [check for stand in self.head["stands"] for check in stand["checks"]]

    @property
    def agreed(self) -> bool:
        return all(check["ok"] for check in self.checks)

    def part(self, name: str) -> PartData | None:
        return next((part for part in self.parts if part.name == name), None)


def save(folder: Path, head: dict[str, Any]) -> None:
    text = json.dumps({"version": VERSION, **head}, ensure_ascii=False)
    (folder / FILE).write_text(text, encoding="utf-8")


def load(folder: Path) -> Results:
    """Raises Problem."""
    path = folder / FILE
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
        if head["version"] != VERSION:
            raise Problem(f"{path} was written by another version of this program.")
        parts = [_part(folder, stand["name"], raw) for stand in head["stands"] for raw in stand["parts"]]
    except (OSError, ValueError, KeyError, UnreadableRecords) as error:
        raise Problem(f"{folder} does not hold the results of a run: {error}") from error
    return Results(folder, head, parts)


def _part(folder: Path, stand: str, raw: dict[str, Any]) -> PartData:
    records = read(folder / raw["folder"])
    return PartData(stand, raw["name"], raw["began"], raw["ended"], raw["samples"], records, raw)
