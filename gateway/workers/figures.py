"""What a worker counts, on its way to the owner's figures: each increment once, and levels while it lives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gateway.metrics import Metrics
from gateway.metrics_cells import Batch, Count, Level, Spread

CONNECTIONS: Final = "gateway_open_connections"
News = list[list[Any]]
"""[name, values of its labels, what it grew by, or a batch] of each series that has changed."""

_Series = tuple[str, tuple[str, ...]]


class Outgoing:
    """The worker's side."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._told: dict[_Series, float] = {}

    def news(self) -> News:
        """All that has changed since the last time."""
        found: News = []
        for family in self._metrics.families():
            name = family.metric.name
            for labels, cell in family.series.items():
                change = cell.drain() if isinstance(cell, Spread) else self._change((name, labels), cell)
                if change:
                    found.append([name, labels, change])
        return found

    def _change(self, series: _Series, cell: Count | Level) -> float:
        change = cell.value - self._told.get(series, 0)
        self._told[series] = cell.value
        return change


class Incoming:
    """The owner's side, of one worker."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._levels: dict[_Series, float] = {}
        self.connections = 0
        """Of clients, open there now."""

    def add(self, news: News) -> None:
        for name, values, change in news:
            metric = self._metrics.family(name).metric
            labels = dict(zip(metric.labels, values, strict=True))
            if name == CONNECTIONS:
                self.connections += change
            elif metric.kind == "counter":
                self._metrics.counter(name, **labels).add(change)
            elif metric.kind == "gauge":
                self._level(name, values, change)
            else:
                self._metrics.spread(name, **labels).absorb(_batch(change))

    def gone(self) -> None:
        """The worker has ended: nothing is on its way there any more."""
        for (name, values), level in [*self._levels.items()]:
            self._level(name, values, -level)
        self.connections = 0

    def _level(self, name: str, values: Sequence[str], change: float) -> None:
        series = (name, tuple(values))
        self._levels[series] = self._levels.get(series, 0) + change
        labels = dict(zip(self._metrics.family(name).metric.labels, values, strict=True))
        self._metrics.level(name, **labels).add(change)


def _batch(news: Sequence[Any]) -> Batch:
    """As it was before it was JSON, which has lists only: compiled modules do not take those for tuples."""
    counts, total, values = news
    return counts, total, [(value, times) for value, times in values]
