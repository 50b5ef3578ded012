"""What Grafana does between a panel and the database: macros and variables become text, tags become names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import Influx, Series

from monitoring.grafana.__main__ import HERE

DASHBOARDS = HERE / "dashboards"


@dataclass(frozen=True, slots=True)
class Window:
    """The time that is shown, and the step. Milliseconds since 1970."""

    start_ms: int
    end_ms: int
    step_ms: int = 2000


@dataclass(frozen=True, slots=True)
class PanelTarget:
    """One query of one panel of one dashboard, as it stands in the JSON."""

    board: str
    panel: Mapping[str, Any]
    target: Mapping[str, Any]

    @property
    def id(self) -> str:
        return f"{self.board}: {self.panel['title']} {self.target['refId']}"


def dashboards(language: str = "en") -> dict[str, dict[str, Any]]:
    return {path.stem: _read(path) for path in sorted((DASHBOARDS / language).glob("*.json"))}


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def panels(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    return (panel for panel in board["panels"] if panel["type"] != "row")


def targets(language: str = "en") -> Iterator[PanelTarget]:
    for name, board in dashboards(language).items():
        for panel in panels(board):
            for target in panel["targets"]:
                yield PanelTarget(name, panel, target)


def expanded(query: str, window: Window, chosen: Mapping[str, str] | None = None) -> str:
    """The query as it reaches the database. What is not chosen is All."""
    query = query.replace("$timeFilter", f"time >= {window.start_ms}ms AND time <= {window.end_ms}ms")
    query = query.replace("$__interval_ms", str(window.step_ms)).replace("$__interval", f"{window.step_ms}ms")
    query = re.sub(r"\$\{(\w+):regex\}", lambda found: (chosen or {}).get(found[1], ".*"), query)
    assert "$" not in query.replace("$/", ""), f"something is left to fill in: {query}"
    return query


def named(alias: str, series: Series) -> str:
    return re.sub(r"\$tag_(\w+)", lambda found: series.tags.get(found[1], ""), alias)


def points(series: Series) -> list[tuple[int, float | None]]:
    """Time and value; a series of a panel has one column beside the time."""
    (column,) = (name for name in series.rows[0] if name != "time")
    return [(int(row["time"]), row[column]) for row in series.rows]


def answer(influx: Influx, found: PanelTarget, window: Window, **chosen: str) -> list[Series]:
    return influx.ask(expanded(found.target["query"], window, chosen))
