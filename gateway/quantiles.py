"""Quantiles of what was measured, with intervals that assume nothing about its distribution.

The interval of a quantile lies between two of the ordered values: how many of n values are below the true
quantile is binomial, whatever the values are (H. A. David and H. N. Nagaraja, Order Statistics, 3rd ed. 2003,
section 7.1; G. J. Hahn and W. Q. Meeker, Statistical Intervals, 1991, section 5.2).
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

CONFIDENCE: Final = 0.95
_TAIL: Final = (1 - CONFIDENCE) / 2


@dataclass(frozen=True, slots=True)
class Estimate:
    """A quantile. ``low`` or ``high`` is None where there are too few values for such a bound."""

    value: float
    low: float | None
    high: float | None


class Reservoir:
    """At most ``size`` values, every one that was added with the same chance (Vitter's algorithm R).

    Up to ``size`` values nothing is lost. Beyond, what is kept is a random sample, and intervals from it
    are those of ``size`` values: they tell how far off it may be.
    """

    __slots__ = ("_dice", "_size", "_values", "seen")

    def __init__(self, size: int, dice: random.Random) -> None:
        self._size = size
        self._dice = dice
        self._values = array("d")
        self.seen = 0

    def add(self, value: float) -> None:
        self.seen += 1
        if len(self._values) < self._size:
            self._values.append(value)
        elif (at := self._dice.randrange(self.seen)) < self._size:
            self._values[at] = value

    def ordered(self) -> list[float]:
        return sorted(self._values)


def estimate(ordered: Sequence[float], quantile: float) -> Estimate | None:
    """A quantile of ``ordered`` values with its interval; None when there are no values."""
    if not ordered:
        return None
    low, high = bounds(len(ordered), quantile)
    return Estimate(
        ordered[math.ceil(len(ordered) * quantile) - 1],
        None if low is None else ordered[low - 1],
        None if high is None else ordered[high - 1],
    )


def bounds(count: int, quantile: float) -> tuple[int | None, int | None]:
    """Between which of ``count`` ordered values, counted from 1, a quantile lies with CONFIDENCE.

    On either side the chance to miss is at most half of the rest; None where no value is far enough out.
    """
    low = _most_below(count, quantile)
    # Seen from above, a quantile is another one from below.
    high = _most_below(count, 1 - quantile)
    return low, None if high is None else count + 1 - high


def _most_below(count: int, quantile: float) -> int | None:
    """The highest rank that is above the quantile with a chance of at most _TAIL; None if not even the first.

    The value of rank r is above it when fewer than r values are below.
    """
    spread = 12 * math.sqrt(count * quantile * (1 - quantile)) + 12
    rank = first = max(0, math.floor(count * quantile - spread))
    chance = 0.0
    while (chance := chance + _chance(count, rank, quantile)) <= _TAIL:
        rank += 1
    return rank if rank > first or first > 0 else None


def _chance(count: int, hits: int, quantile: float) -> float:
    """That exactly ``hits`` of ``count`` values are below the quantile."""
    ways = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
    return math.exp(ways + hits * math.log(quantile) + (count - hits) * math.log1p(-quantile))


def fewest(quantile: float) -> int:
    """How many values an interval with both ends needs."""
    return math.ceil(math.log(_TAIL) / math.log(max(quantile, 1 - quantile)))
