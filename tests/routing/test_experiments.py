"""The books of arms: what counts, what is compared, and what is kept apart."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.answers import Answer, Receipt
from gateway.config import ModelSpec, Registry
from gateway.experiments import Arm, Experiments, Load, Seen
from gateway.routing import DIRECT, Origin

ARM = Origin("chat", "a")


def registry() -> Registry:
    models = tuple(ModelSpec(id=name, family="chatml", url="http://127.0.0.1:9") for name in "ab")
    return Registry(models=models, aliases={"chat": {"split": {"a": 3, "b": 1}}, "plain": "a"})  # type: ignore[dict-item]


@pytest.fixture
def books() -> Experiments:
    return Experiments(registry())


def answered(total_ms: float = 100.0, tokens: int = 11, **parts: float) -> Answer:
    times = {"queue_ms": 0.0, "load_ms": 0.0, "prefill_ms": 20.0, "decode_ms": 50.0, "gateway_ms": 1.0}
    in_us = {name.replace("_ms", "_us"): round(1000 * value) for name, value in {**times, **parts}.items()}
    receipt = Receipt(**in_us, total_us=round(1000 * total_ms))
    return Answer("a", "text", "length", 3, tokens, None, receipt)


def record(books: Experiments, **seen: Any) -> Arm:
    books.record(Seen(**{"origin": ARM, "outcome": "ok", "answer": answered(), **seen}))
    return books.all()["chat"].arms["a"]


def test_only_splits_are_experiments(books: Experiments) -> None:
    assert list(books.all()) == ["chat"]
    books.record(Seen(DIRECT, "ok", answered()))
    assert [arm.requests for arm in books.all()["chat"].arms.values()] == [0, 0]


def test_warm_answer_counts_for_speed(books: Experiments) -> None:
    arm = record(books)

    assert (arm.requests, arm.answered, arm.completion_tokens) == (1, 1, 11)
    assert {name: values.ordered() for name, values in arm.warm.items()} == {
        "first_token_ms": [20.0],
        "total_ms": [100.0],
        "tokens_per_second": [200.0],
    }


def test_cold_answer_is_kept_apart(books: Experiments) -> None:
    arm = record(books, answer=answered(5000, load_ms=4000.0), load=Load(10.0, 4.0), load_wait_s=4.0)

    assert (arm.answered, arm.cold_starts) == (1, 1)
    assert all(values.seen == 0 for values in arm.warm.values())
    assert arm.cold["load_ms"].ordered() == [4000.0]
    assert arm.cold["total_ms"].ordered() == [5000.0]


def test_a_load_is_counted_once_and_its_waits_each(books: Experiments) -> None:
    for ended_at in (10.0, 10.0, 20.0):
        arm = record(books, load=Load(ended_at, 4.0), load_wait_s=3.0)

    assert (arm.loads, arm.load_s, arm.load_wait_s) == (2, 8.0, 9.0)


@pytest.mark.parametrize(
    ("outcome", "counts"), [("client_gone", (1, 0)), ("overloaded", (0, 1)), ("engine_error", (0, 1))]
)
def test_what_was_not_answered_is_no_latency(
    books: Experiments, outcome: str, counts: tuple[int, int]
) -> None:
    arm = record(books, outcome=outcome, answer=None)

    assert (arm.cancelled, arm.errors.total()) == counts
    assert (arm.requests, arm.answered, arm.warm["total_ms"].seen) == (1, 0, 0)


def test_what_another_model_answered_is_not_this_ones_speed(books: Experiments) -> None:
    arm = record(books, origin=Origin("chat", "a", "a", "overloaded"))

    assert (arm.requests, arm.answered, arm.fell_back) == (1, 0, 1)
    assert arm.warm["total_ms"].seen == arm.completion_tokens == 0


def test_first_token_that_nobody_saw_is_not_measured(books: Experiments) -> None:
    arm = record(books, streamed=False)

    assert {name: values.seen for name, values in arm.warm.items()} == {
        "first_token_ms": 0,
        "total_ms": 1,
        "tokens_per_second": 0,
    }


def test_reset_forgets_all(books: Experiments) -> None:
    record(books)
    experiment = books.all()["chat"]
    experiment.since = 0.0

    experiment.reset()

    assert experiment.since > 0
    assert [arm.requests for arm in experiment.arms.values()] == [0, 0]
