"""What one series is while it is being counted. Recording costs well under a microsecond; nothing locks.

All of it belongs to the event loop. ``stat`` is the series' name for StatsD, tags and all.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final

RESOLUTION: Final = 0.02
"""Values that differ by less than this share of themselves may be told to StatsD as one value, their mean."""
_STEPS: Final = 1 / math.log1p(RESOLUTION)
_SMALLEST: Final = 1e-9
_UNSETTLED: Final = 1024


Batch = tuple[Sequence[int], float, Sequence[tuple[float, int]]]
"""Counts by bucket, the sum, and, where they are kept, the values: (value, how often)."""


class Count:
    """Something that only grows. ``told`` is what StatsD's listener has been sent of it."""

    __slots__ = ("stat", "told", "value")

    def __init__(self, stat: str) -> None:
        self.stat = stat
        self.value: float = 0.0
        self.told = 0

    def add(self, amount: float = 1) -> None:
        self.value += amount

    def untold(self) -> int:
        """What is new, in whole units: daemons cut fractions off, so they wait until they are whole."""
        # Sums of fractions miss the whole number by a hair.
        return int(self.value + _SMALLEST) - self.told


class Level:
    """Something that goes up and down."""

    __slots__ = ("stat", "value")

    def __init__(self, stat: str) -> None:
        self.stat = stat
        self.value: float = 0.0

    def set(self, value: float) -> None:
        self.value = value

    def add(self, amount: float) -> None:
        self.value += amount


class Spread:
    """Values and how they are spread: counts below each bound, and, for StatsD, the values as they were.

    ``observe`` does next to nothing; the work is done for many values at once, by ``settle``.
    """

    __slots__ = ("_bounds", "_counts", "_fine", "_sum", "_unsettled", "stat")

    def __init__(self, stat: str, bounds: Sequence[float], *, keep_values: bool) -> None:
        self.stat = stat
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._unsettled: list[float] = []
        self._fine: dict[int, list[float]] | None = {} if keep_values else None

    def observe(self, value: float) -> None:
        self._unsettled.append(value)
        if len(self._unsettled) >= _UNSETTLED:
            self._settle()

    def cumulative(self) -> tuple[list[tuple[float, int]], float]:
        """(upper bound, how many values up to it), infinity last; and the sum of all values."""
        self._settle()
        reached, below = [], 0
        for bound, count in zip((*self._bounds, math.inf), self._counts, strict=True):
            below += count
            reached.append((bound, below))
        return reached, self._sum

    def take(self) -> list[tuple[float, int]]:
        """(value, how often) since the last time, near values merged; empty unless values are kept."""
        self._settle()
        taken, self._fine = self._fine, None if self._fine is None else {}
        return [(total / count, int(count)) for count, total in (taken or {}).values()]

    def drain(self) -> Batch | None:
        """What came since the last time, to be added elsewhere; None when that is nothing."""
        self._settle()
        if not any(self._counts):
            return None
        counts, total = self._counts, self._sum
        self._counts, self._sum = [0] * len(counts), 0.0
        return counts, total, self.take()

    def absorb(self, batch: Batch) -> None:
        """Add what one like this one was told."""
        counts, total, values = batch
        self._counts = [mine + more for mine, more in zip(self._counts, counts, strict=True)]
        self._sum += total
        if self._fine is None:
            return
        for value, times in values:
            near = self._fine.setdefault(_step(value), [0, 0.0])
            near[0] += times
            near[1] += value * times

    def _settle(self) -> None:
        """In order of size, a whole bucket is found at once: buckets cost, values hardly do."""
        values, self._unsettled = self._unsettled, []
        values.sort()
        self._sum += sum(values)
        below = 0
        for place, bound in enumerate(self._bounds):
            reached = bisect_right(values, bound, below)
            self._counts[place] += reached - below
            below = reached
        self._counts[-1] += len(values) - below
        if self._fine is not None:
            _merge(values, self._fine)


def _merge(values: Sequence[float], fine: dict[int, list[float]]) -> None:
    """Add values, in order of size, to [how many, their sum] by step."""
    begun = 0
    while begun < len(values):
        step = _step(values[begun])
        ended = max(begun + 1, bisect_left(values, math.exp((step + 1) / _STEPS), begun))
        near = fine.setdefault(step, [0, 0.0])
        near[0] += ended - begun
        near[1] += sum(values[begun:ended])
        begun = ended


def _step(value: float) -> int:
    return math.floor(math.log(max(value, _SMALLEST)) * _STEPS)
