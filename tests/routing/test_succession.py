"""Who comes next, with how much time, and what is told when nobody does."""

from __future__ import annotations

import time

import pytest

from gateway.config import ModelSpec, Timeouts
from gateway.errors import (
    EngineError,
    EngineTimeout,
    GatewayError,
    InternalError,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    WaitTimeout,
)
from gateway.fallback import Succession
from gateway.generation import GenerationRequest, Prepared
from gateway.routing import Who
from gateway.schemas import Prompt


def spec(name: str, wait_s: float = 100, total_s: float = 50) -> ModelSpec:
    times = Timeouts(wait_s=wait_s, total_s=total_s)
    return ModelSpec(id=name, family="chatml", url="http://127.0.0.1:9", timeouts=times)


def prepare(request: GenerationRequest) -> Prepared:
    assert request.who is not None
    if request.who.spec.id == "picky":
        raise InvalidRequest("not with me")
    return Prepared(request.who.spec, Prompt("x"), {})


def succession(*fallback: ModelSpec, wait_s: float | None = None) -> Succession:
    who = Who(spec("first"), fallback=fallback)
    asked = GenerationRequest(None, "x", None, {}, 0.0, wait_s=wait_s)
    return Succession(asked, who, prepare)


@pytest.mark.parametrize("kind", [Overloaded, ModelUnavailable, WaitTimeout, EngineError, EngineTimeout])
def test_what_may_pass_elsewhere_goes_to_the_next(kind: type[GatewayError]) -> None:
    found = succession(spec("second"))

    assert found.next(kind("no"), None).spec.id == "second"
    assert (found.who.origin.fallback_from, found.who.origin.fallback_reason) == ("first", kind.type)
    assert not found.has_more


@pytest.mark.parametrize("kind", [InvalidRequest, InternalError])
def test_what_is_wrong_everywhere_goes_to_nobody(kind: type[GatewayError]) -> None:
    with pytest.raises(kind, match="no"):
        succession(spec("second")).next(kind("no"), None)


def test_who_cannot_do_what_was_asked_for_is_passed_over() -> None:
    found = succession(spec("picky"), spec("third"))

    assert found.next(Overloaded("no"), None).spec.id == "third"


def test_reason_is_the_first_ones_however_many_fail() -> None:
    found = succession(spec("second"), spec("third"))
    found.next(Overloaded("full"), None)
    found.next(EngineError("broken"), None)

    assert found.who.spec.id == "third"
    assert (found.who.origin.fallback_from, found.who.origin.fallback_reason) == ("first", "overloaded")


def test_when_nobody_is_left_the_first_error_is_told_with_the_last() -> None:
    found = succession(spec("second"))
    found.next(Overloaded("full", hint="Come back.", retry_after_s=3), None)

    with pytest.raises(Overloaded) as caught:
        found.next(EngineError("broken"), None)

    assert caught.value.message == "full."
    assert caught.value.hint == "Nor could second answer instead: broken. Come back."
    assert caught.value.retry_after_s == 3


def test_clocks_go_on() -> None:
    found = succession(spec("second", wait_s=300, total_s=600), wait_s=20)

    times = found.next(Overloaded("full"), time.perf_counter() - 10).spec.timeouts

    assert times.wait_s == pytest.approx(20, abs=1)
    assert times.total_s == pytest.approx(40, abs=1)


def test_own_clocks_count_when_they_are_shorter() -> None:
    times = succession(spec("second", wait_s=3, total_s=2)).next(Overloaded("full"), None).spec.timeouts

    assert (times.wait_s, times.total_s) == (3, 2)


def test_nobody_begins_when_the_time_is_over() -> None:
    with pytest.raises(EngineTimeout):
        succession(spec("second")).next(EngineTimeout("total"), time.perf_counter() - 51)
