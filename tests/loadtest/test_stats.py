"""Statistics against values that are known from elsewhere, or by construction."""

from __future__ import annotations

import random
from statistics import NormalDist

import pytest

from loadtest.report.differences import FEWEST_PAIRS, FIGURES
from loadtest.stats import median_of, quantile, slope, spread, student, with_interval


@pytest.mark.parametrize(
    ("confidence", "degrees", "value"),
    # W. S. Gosset's table as every textbook has it.
    [(0.95, 1, 12.706), (0.95, 5, 2.571), (0.95, 30, 2.042), (0.99, 10, 3.169), (0.9, 4, 2.132)],
)
def test_students_quantiles_are_those_of_the_table(confidence: float, degrees: int, value: float) -> None:
    assert student(confidence, degrees) == pytest.approx(value, abs=0.001)


def test_students_quantile_nears_the_normal_ones() -> None:
    assert student(0.95, 10_000) == pytest.approx(NormalDist().inv_cdf(0.975), abs=0.001)


def test_quantiles_are_values_that_were_seen() -> None:
    ordered = [float(value) for value in range(1, 101)]
    assert (quantile(ordered, 0.5), quantile(ordered, 0.95), quantile(ordered, 0.99)) == (50, 95, 99)
    assert quantile([7.0], 0.99) == 7
    found = spread(reversed(ordered))
    assert (found.count, found.p50, found.p99, found.most, found.mean) == (100, 50, 99, 100, 50.5)
    assert spread([]).p50 is None


def test_the_interval_of_a_quantile_holds_it_in_95_of_100_samples() -> None:
    dice, held = random.Random(1), 0
    for _ in range(400):
        found = with_interval([dice.expovariate(1) for _ in range(300)], 0.95)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 2.9957 <= found.high  # the 95 % quantile of an exponential: ln 20
    assert held / 400 >= 0.93


def test_a_slope_is_found_with_its_interval_and_none_in_noise() -> None:
    dice = random.Random(2)
    points = [(x, 5 + 0.5 * x + dice.gauss(0, 1)) for x in range(60)]
    found = slope(points)
    assert found is not None
    assert found.low < 0.5 < found.high
    assert found.clear
    assert found.high - found.low < 0.1
    noise = [slope([(x, dice.gauss(0, 1)) for x in range(30)]) for _ in range(200)]
    assert sum(one is not None and one.clear for one in noise) <= 20, "one in twenty is wrong, by design"
    assert slope([(0, 1), (1, 2), (2, 3)]) is None


def test_a_slope_without_noise_is_exact() -> None:
    found = slope([(float(x), 3.0 * x) for x in range(10)])
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((3, 3, 3))


@pytest.mark.parametrize(
    ("count", "confidence", "low", "high"),
    # As tables of the sign test have it.
    [(6, 0.95, 1, 6), (12, 0.95, 3, 10), (12, 0.99, 2, 11), (20, 0.95, 6, 15), (9, 0.993, 1, 9)],
)
def test_the_interval_of_a_median_is_that_of_the_sign_test(
    count: int, confidence: float, low: int, high: int
) -> None:
    found = median_of([float(value) for value in range(count, 0, -1)], confidence)
    assert found is not None
    assert (found.value, found.low, found.high) == ((count + 1) / 2, low, high)
    assert median_of([1.0] * 5, 0.95) is None


def test_pairs_without_a_difference_show_none_and_a_real_one_shows() -> None:
    dice = random.Random(3)
    confidence = 1 - 0.05 / len(FIGURES)
    assert median_of([0.0] * FEWEST_PAIRS, confidence) is not None
    assert median_of([0.0] * (FEWEST_PAIRS - 1), confidence) is None
    alarms = 0
    for _ in range(400):
        figures = [median_of([dice.gauss(0, 1) for _ in range(12)], confidence) for _ in FIGURES]
        alarms += any(one is not None and one.clear for one in figures)
    assert alarms / 400 <= 0.08, "all figures together are to raise an alarm in one comparison of twenty"
    # A pair in which the machine was busy with something else does no harm.
    found = median_of([10 + dice.gauss(0, 1) for _ in range(11)] + [-400.0], confidence)
    assert found is not None
    assert found.clear
    assert 8 < found.value < 12
