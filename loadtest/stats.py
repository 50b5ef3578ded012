"""Quantiles, slopes and differences, each with an interval that says how far it can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, median

from gateway.quantiles import Estimate, estimate

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Spread:
    """P50, P95 and P99 of some values; None where there are none."""

    count: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    most: float | None = None
    mean: float | None = None


def spread(values: Iterable[float]) -> Spread:
    ordered = sorted(values)
    if not ordered:
        return Spread(0)
    return Spread(
        len(ordered),
        quantile(ordered, 0.5),
        quantile(ordered, 0.95),
        quantile(ordered, 0.99),
        ordered[-1],
        fmean(ordered),
    )


def quantile(ordered: Sequence[float], q: float) -> float:
    """The least of the ordered values that is not exceeded by a share ``q`` of them."""
    return ordered[max(0, math.ceil(len(ordered) * q) - 1)]


def with_interval(values: Iterable[float], q: float) -> Estimate | None:
    """A quantile and the two ordered values between which the true one lies (95 %)."""
    return estimate(sorted(values), q)


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and what it lies between, with the confidence that was asked for."""

    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether zero is outside, so that there is an effect."""
        return self.low > 0 or self.high < 0


def slope(points: Sequence[tuple[float, float]], confidence: float = CONFIDENCE) -> Interval | None:
    """Least squares through (x, y): y per x, with Student's interval; None below four points.

    Points have to be independent enough: give medians of minutes, not samples of seconds.
    """
    count = len(points)
    if count < 4:
        return None
    mean_x, mean_y = fmean(x for x, _ in points), fmean(y for _, y in points)
    square = sum((x - mean_x) ** 2 for x, _ in points)
    if square == 0:
        return None
    value = sum((x - mean_x) * (y - mean_y) for x, y in points) / square
    rest = sum((y - mean_y - value * (x - mean_x)) ** 2 for x, y in points)
    error = math.sqrt(rest / (count - 2) / square)
    wide = student(confidence, count - 2) * error
    return Interval(value, value - wide, value + wide)


def median_of(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """The median with an interval between two of the ordered values; None where there are too few.

    Each value is above the true median with a chance of a half, whatever else it is (H. A. David and
    H. N. Nagaraja, Order Statistics, 3rd ed. 2003, section 7.1). So one wild value does no harm.
    """
    ordered, count = sorted(values), len(values)
    rank, chance = 0, 0.0
    while rank < count:
        chance += math.comb(count, rank) / 2**count
        if 2 * chance > 1 - confidence:
            break
        rank += 1
    if rank == 0:
        return None
    return Interval(median(ordered), ordered[rank - 1], ordered[count - rank])


@lru_cache(maxsize=64)
def student(confidence: float, degrees: int) -> float:
    """The two-sided quantile of Student's t distribution, by bisection on its integral."""
    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        if _inside(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _inside(t: float, degrees: int) -> float:
    """The chance of a value between -t and t. With t = sqrt(n) tan(u) the density is a power of a cosine."""
    to = math.atan(t / math.sqrt(degrees))
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    steps = 400
    width = to / steps
    inner = [math.cos(k * width) ** (degrees - 1) for k in range(steps + 1)]
    simpson = inner[0] + inner[-1] + 4 * sum(inner[1:-1:2]) + 2 * sum(inner[2:-1:2])
    return 2 * scale * simpson * width / 3
