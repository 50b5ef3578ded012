"""What a simulated user saw of one request, and how that is kept: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any, Literal

Outcome = Literal["ok", "refused", "failed", "left", "cut"]
"""``refused``: told to come back later. ``left``: by the user's own wish. ``cut``: by the end of the run."""
LOCUST_FILES = "locust-"
"""Beside the records: what Locust itself counted, a file for each of its processes."""


class UnreadableRecords(Exception):
    """A file of records that is not what it should be."""


@dataclass(slots=True)
class Record:
    """One request. Times in milliseconds from its sending, ``at`` in seconds since the epoch.

    ``asked_tokens`` is the most that the answer may have. ``gaps_ms`` are the times from one token to the
    next, as the client read them. ``receipt`` is the gateway's own account. ``attempt`` counts from 1; a
    second one comes after a refusal.
    """

    at: float
    user: str
    kind: str
    model: str
    route: str
    request_id: str
    stream: bool = False
    asked_tokens: int = 0
    outcome: Outcome = "cut"
    status: int = 0
    error: str = ""
    total_ms: float = 0.0
    first_token_ms: float | None = None
    gaps_ms: list[float] = field(default_factory=list)
    tokens: int = 0
    prompt_tokens: int = 0
    receipt: Mapping[str, float] = field(default_factory=dict)
    attempt: int = 1
    retry_after_s: float | None = None

    @property
    def name(self) -> str:
        """What Locust calls it."""
        return f"{self.kind} {self.model}"

    @property
    def ended_at(self) -> float:
        return self.at + self.total_ms / 1000

    @property
    def tokens_per_s(self) -> float | None:
        """After the first token, as a reader of the stream has it; None without two tokens."""
        seconds = sum(self.gaps_ms) / 1000
        return len(self.gaps_ms) / seconds if seconds > 0 else None


_NAMES = {one.name for one in fields(Record)}


class Book:
    """Writes records into a file of its own process, so that several may write into one folder. Without a
    record there is no file."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"records-{name}.jsonl"
        self._file: IO[str] | None = None

    def add(self, record: Record) -> None:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("w", encoding="utf-8")
        self._file.write(json.dumps(_small(record), ensure_ascii=False, separators=(",", ":")) + "\n")

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _small(record: Record) -> dict[str, Any]:
    """Without what is as it was made; times to a hundredth of a millisecond."""
    row = asdict(record)
    row["gaps_ms"] = [round(gap, 2) for gap in record.gaps_ms]
    row["total_ms"] = round(record.total_ms, 2)
    if record.first_token_ms is not None:
        row["first_token_ms"] = round(record.first_token_ms, 2)
    return {name: value for name, value in row.items() if value not in (None, "", [], {})}


def read(folder: Path) -> list[Record]:
    """All records of a folder, in the order of their starts. Raises UnreadableRecords."""
    found = [record for path in sorted(folder.glob("records-*.jsonl")) for record in _of(path)]
    return sorted(found, key=lambda record: record.at)


def locust_counts(folder: Path) -> dict[str, Any]:
    """What all processes of Locust counted: ``total`` added up, and the ``rows`` of all. Raises
    UnreadableRecords when there is nothing."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob(f"{LOCUST_FILES}*.json")]
    if not found:
        raise UnreadableRecords(f"Locust left no counts in {folder}.")
    total = {name: sum(one["total"][name] for one in found) for name in ("requests", "failures")}
    return {"total": total, "rows": [row for one in found for row in one["rows"]]}


def _of(path: Path) -> Iterator[Record]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            yield Record(**{name: value for name, value in row.items() if name in _NAMES})
        except (ValueError, TypeError) as error:
            raise UnreadableRecords(f"{path}, line {number}: {error}") from error
