"""Intervals hold what they promise: the true quantile is inside, nearly always, whatever the distribution."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from gateway.quantiles import Reservoir, bounds, estimate, fewest

TRIALS = 1000


def lognormal(dice: random.Random) -> float:
    return dice.lognormvariate(0, 1)


def two_humps(dice: random.Random) -> float:
    return dice.expovariate(1) if dice.random() < 0.7 else 50 + dice.expovariate(0.1)


def below(draw: Callable[[random.Random], float], quantile: float) -> float:
    """The true quantile, from so many draws that its error does not matter."""
    dice = random.Random(7)
    return sorted(draw(dice) for _ in range(100_000))[math.ceil(100_000 * quantile) - 1]


@pytest.mark.parametrize("draw", [lognormal, two_humps])
@pytest.mark.parametrize(("count", "quantile"), [(20, 0.5), (100, 0.5), (100, 0.95), (400, 0.99)])
def test_intervals_cover_the_true_quantile(
    draw: Callable[[random.Random], float], count: int, quantile: float
) -> None:
    dice, true = random.Random(1), below(draw, quantile)
    inside = 0
    for _ in range(TRIALS):
        found = estimate(sorted(draw(dice) for _ in range(count)), quantile)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.value <= found.high
        inside += found.low <= true <= found.high

    # At least 95 % are promised; three standard deviations of so many trials are 2.1 %.
    assert inside / TRIALS > 0.929


def test_intervals_are_those_of_the_tables() -> None:
    assert bounds(100, 0.5) == (40, 61)
    assert bounds(10, 0.5) == (2, 9)


def test_too_few_values_have_no_upper_bound() -> None:
    assert bounds(fewest(0.99) - 1, 0.99)[1] is None
    assert bounds(fewest(0.99), 0.99)[1] == fewest(0.99)
    assert (fewest(0.5), fewest(0.95), fewest(0.99)) == (6, 72, 368)
    assert estimate([], 0.5) is None


def test_one_value_is_its_own_quantile_without_bounds() -> None:
    found = estimate([3.0], 0.95)

    assert found is not None
    assert (found.value, found.low, found.high) == (3.0, None, None)


def test_reservoir_keeps_all_until_it_is_full() -> None:
    kept = Reservoir(100, random.Random(1))
    for number in range(100):
        kept.add(number)

    assert kept.ordered() == list(range(100))


def test_reservoir_keeps_every_value_with_the_same_chance() -> None:
    dice, times = random.Random(1), [0] * 200
    for _ in range(3000):
        kept = Reservoir(20, dice)
        for number in range(200):
            kept.add(number)
        assert kept.seen == 200
        for value in kept.ordered():
            times[int(value)] += 1

    # Each is kept 300 times on average, with a standard deviation of 16.4.
    assert 300 - 5 * 16.4 < min(times) <= max(times) < 300 + 5 * 16.4


def test_intervals_from_a_full_reservoir_still_cover() -> None:
    """What is kept of a long stream is a sample of it, and its interval is that of so many values."""
    dice, true, inside = random.Random(3), below(lognormal, 0.95), 0
    for _ in range(300):
        kept = Reservoir(128, dice)
        for _ in range(600):
            kept.add(lognormal(dice))
        found = estimate(kept.ordered(), 0.95)
        inside += found is not None and (found.low or 0.0) <= true <= (found.high or math.inf)

    assert inside / 300 > 0.91
