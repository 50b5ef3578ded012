"""Whom a name means, without any engine: defaults, and turns that are taken or only looked at."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from gateway.config import Registry
from gateway.errors import ModelNotFound
from gateway.registry import parse
from gateway.routing import DIRECT, Asked, Routing
from gateway.switching.vocabulary import ModelView, State

GIB = 2**30


@dataclass
class Known:
    """What is known of all models: how much each takes, and how long its last load took."""

    footprint_bytes: int
    last_start_s: float | None = None

    def view(self, model: str) -> ModelView:
        return ModelView(State.READY, 0.0, None, 0, 0, self.last_start_s, self.footprint_bytes, None)


def registry(**alias: Any) -> Registry:
    own = {"family": "qwen2", "command": ["engine", "{port}"], "memory": "6GiB"}
    raw = {
        "models": [{"id": name, **own} for name in ("qwen2", "llama3", "phi")],
        "devices": [{"id": "gpu0", "memory": "11GiB"}],
        "aliases": {"chat": {"split": {"qwen2": 3, "llama3": 1}, **alias}, "fast": "phi"},
        "default_model": "chat",
    }
    return parse(raw, "models.yaml", families=["qwen2"], engines=["tgi"])


def drawn(routing: Routing, count: int) -> list[str]:
    return [routing.draw(Asked(None)).origin.arm for _ in range(count)]


def test_who_names_nobody_gets_the_default_split() -> None:
    who = Routing(registry(), Known(4 * GIB)).draw(Asked(None))

    assert who.origin.alias == "chat"
    assert who.spec.id == who.origin.arm


def test_plain_names_have_no_arm() -> None:
    routing = Routing(registry(), Known(4 * GIB))

    assert [routing.draw(Asked(name)).origin for name in ("fast", "qwen2")] == [DIRECT, DIRECT]
    with pytest.raises(ModelNotFound):
        routing.draw(Asked("nobody"))


def test_arms_that_fit_are_drawn_each_time_anew() -> None:
    arms = drawn(Routing(registry(), Known(4 * GIB)), 2000)

    # Five standard deviations around three quarters.
    assert 0.70 < arms.count("qwen2") / len(arms) < 0.80
    assert sum(one != other for one, other in pairwise(arms)) > 500


def test_arms_that_turned_out_not_to_fit_take_turns() -> None:
    """What counts is the memory that was measured, not what the registry declares."""
    arms = drawn(Routing(registry(), Known(9 * GIB)), 2000)

    assert Counter(arms)["qwen2"] == pytest.approx(1500, abs=11)
    assert sum(one != other for one, other in pairwise(arms)) <= 40


def test_turn_lasts_as_long_as_loads_or_as_it_is_told() -> None:
    """All of these are asked within less time than one load."""
    by_load = drawn(Routing(registry(), Known(9 * GIB, last_start_s=60.0)), 500)
    as_told = drawn(Routing(registry(block_s=0), Known(9 * GIB, last_start_s=60.0)), 500)

    assert len(set(by_load)) == 1
    assert len(set(as_told)) == 2


def test_who_only_looks_takes_no_turn() -> None:
    halves = {"qwen2": 1, "llama3": 1}
    routing = Routing(registry(block_s=0, split=halves), Known(9 * GIB))

    first = drawn(routing, 1)
    seen = {routing.peek(Asked(None)).spec.id for _ in range(1000)}

    assert seen == set(first)
    # The first turn of two equal arms is twenty requests long.
    assert drawn(routing, 20) == [*first * 19, *({*halves} - {*first})]


def test_keys_are_not_shown_by_who_prints_a_request() -> None:
    assert "hush" not in repr(Asked("chat", session="hush", user="hush"))


@pytest.mark.parametrize(
    ("said", "expected"), [(None, ["llama3", "phi"]), (("phi",), ["phi"]), ((), []), (("fast",), ["phi"])]
)
def test_request_has_the_last_word_on_who_answers_instead(
    said: tuple[str, ...] | None, expected: list[str]
) -> None:
    routing = Routing(registry(fallback=["llama3", "phi"], split={"qwen2": 1}), Known(4 * GIB))

    assert [spec.id for spec in routing.draw(Asked("chat", fallback=said)).fallback] == expected


def test_nobody_is_asked_twice() -> None:
    routing = Routing(registry(), Known(4 * GIB))
    who = routing.draw(Asked("qwen2", fallback=("phi", "qwen2", "fast", "phi")))

    assert [spec.id for spec in who.fallback] == ["phi"]
