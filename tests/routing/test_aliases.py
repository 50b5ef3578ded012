"""Arms by key, by lot and in turns: proportions, stability, and how few keys move."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.aliases import Blocks, arm_by_lot, arm_of_key

ARMS = st.dictionaries(
    st.sampled_from(["qwen2", "llama3", "smollm2", "phi", "gemma"]), st.floats(0.01, 1000), min_size=1
)
KEYS = [f"session-{number}" for number in range(20_000)]


@pytest.mark.parametrize(
    "weights", [{"a": 50.0, "b": 50.0}, {"a": 90.0, "b": 10.0}, {"a": 1.0, "b": 2.0, "c": 0.1}], ids=str
)
def test_keys_are_shared_out_by_weight(weights: dict[str, float]) -> None:
    counts = Counter(arm_of_key("chat", key, weights) for key in KEYS)

    total = sum(weights.values())
    for arm, weight in weights.items():
        share = weight / total
        # Five standard deviations of the share of so many keys.
        assert abs(counts[arm] / len(KEYS) - share) < 5 * (share * (1 - share) / len(KEYS)) ** 0.5


@given(st.text(), ARMS)
def test_a_key_has_the_same_arm_whatever_the_order(key: str, weights: dict[str, float]) -> None:
    arm = arm_of_key("chat", key, weights)

    assert arm in weights
    assert arm_of_key("chat", key, dict(reversed(weights.items()))) == arm


@given(
    st.text(), ARMS, st.sampled_from(["qwen2", "llama3", "smollm2", "phi", "gemma"]), st.floats(0.01, 1000)
)
def test_a_key_moves_only_to_who_gained_or_from_who_lost(
    key: str, weights: dict[str, float], changed: str, weight: float
) -> None:
    before = arm_of_key("chat", key, weights)
    after = arm_of_key("chat", key, {**weights, changed: weight})

    if after != before:
        gained = weight > weights.get(changed, 0.0)
        assert (after if gained else before) == changed


def test_no_more_keys_move_than_shares_changed() -> None:
    before = {key: arm_of_key("chat", key, {"a": 50.0, "b": 50.0}) for key in KEYS}
    moved = [key for key in KEYS if arm_of_key("chat", key, {"a": 60.0, "b": 40.0}) != before[key]]

    assert {before[key] for key in moved} == {"b"}
    assert len(moved) / len(KEYS) == pytest.approx(0.1, abs=0.015)


def test_aliases_share_out_keys_independently() -> None:
    weights = {"a": 1.0, "b": 1.0}
    same = sum(arm_of_key("one", key, weights) == arm_of_key("two", key, weights) for key in KEYS)

    assert same / len(KEYS) == pytest.approx(0.5, abs=0.02)


def test_arms_of_known_keys_stay_what_they_are() -> None:
    """Sessions must not change their model with a new version of the gateway."""
    weights = {"qwen2": 90.0, "llama3": 10.0}

    arms = "".join(arm_of_key("chat", f"session-{number}", weights)[0] for number in range(40))

    assert arms == "q" * 26 + "lqlqlqqqqqqqqq"


@given(ARMS, st.floats(0, 1, exclude_max=True))
def test_a_lot_falls_on_the_arm_in_whose_part_it_is(weights: dict[str, float], lot: float) -> None:
    arm = arm_by_lot(weights, lot)

    names = list(weights)
    before = sum(weights[name] for name in names[: names.index(arm)])
    total = sum(weights.values())
    assert before / total <= lot + 1e-9
    assert lot < (before + weights[arm]) / total + 1e-9


@given(ARMS, st.integers(1, 30), st.floats(0, 1, exclude_max=True))
def test_turns_keep_to_the_weights_and_change_seldom(
    weights: dict[str, float], size: int, lot: float
) -> None:
    blocks = Blocks(weights, size)
    arms = [blocks.next(0.0, 0.0, lot) for _ in range(1000)]

    total, counts = sum(weights.values()), Counter(arms)
    behind = [weights[arm] / total * len(arms) - counts[arm] for arm in weights]
    # Nobody is further ahead than a turn; what all others are ahead is what one can be behind.
    assert min(behind) >= -(size + 1)
    assert max(behind) <= (len(weights) - 1) * (size + 1)
    changes = sum(one != other for one, other in pairwise(arms))
    assert changes <= len(arms) / size + 1


def test_two_equal_arms_take_turns_of_forty() -> None:
    blocks = Blocks({"a": 1.0, "b": 1.0}, 10)
    arms = [blocks.next(0.0, 0.0, 0.0) for _ in range(200)]

    assert "".join(arms) == "a" * 20 + "b" * 40 + "a" * 40 + "b" * 40 + "a" * 40 + "b" * 20


def test_a_turn_lasts_as_long_as_it_must_and_is_made_up_for() -> None:
    blocks = Blocks({"a": 1.0, "b": 1.0}, 10)
    # Ten requests per second; a turn lasts at least 30 s.
    arms = [blocks.next(number / 10, 30.0, 0.0) for number in range(6000)]

    turns = [len(turn) for turn in "".join(arms).replace("ab", "a b").replace("ba", "b a").split()]
    assert min(turns[:-1]) >= 300
    assert Counter(arms)["a"] / len(arms) == pytest.approx(0.5, abs=0.06)
