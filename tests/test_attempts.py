"""When a request is sent to another replica, and when its first failure is its last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway import attempts as attempting
from gateway.attempts import Attempts
from gateway.config import ModelSpec
from gateway.errors import EngineError, GatewayError, InvalidRequest, Overloaded
from gateway.metrics import Metrics
from gateway.replicas import ReplicaSet, ReplicaState
from gateway.tickets import Entry, Ticket
from gateway.upstream.base import ClockTimeout, EngineUnreachable, SuspectEngineError, Truncated

A, B, C = "http://a", "http://b", "http://c"
WORD = "an answer"


class Owner:
    """The manager as a ticket sees it: a clock, and an ear for complaints."""

    def __init__(self) -> None:
        self.complaints: list[str] = []

    def now(self) -> float:
        return 0.0

    def examine(self, model: str, reason: str, *, silent: bool) -> None:
        self.complaints.append(reason)

    def closed(self, ticket_id: int, *, granted: bool, at: float | None = None) -> None:
        pass


class Case:
    """One request for a model with three replicas. ``send`` fails with each error in turn, then answers."""

    def __init__(self, *errors: BaseException, urls: tuple[str, ...] = (A, B, C), **routing: Any) -> None:
        record = {"id": "m", "family": "chatml", "url": A, "routing": routing}
        self.owner, self.metrics = Owner(), Metrics()
        self.replicas = ReplicaSet(urls, trusted=True)
        entry = Entry("m", None, None, 1.0, replicas=self.replicas)  # type: ignore[arg-type]
        self.ticket = Ticket(self.owner, entry, 1, 0.0)  # type: ignore[arg-type]
        self.attempts = Attempts(ModelSpec.model_validate(record), self.metrics)
        self.errors = list(errors)
        self.sent: list[str] = []

    async def send(self, url: str) -> str:
        self.sent.append(url)
        if self.errors:
            raise self.errors.pop(0)
        return WORD

    async def at(self) -> str:
        return await self.attempts.at(self.ticket, self.send)

    async def fails(self, call: Callable[[], Awaitable[str]] | None = None) -> GatewayError:
        with pytest.raises(GatewayError) as caught:
            await (call or self.at)()
        return caught.value

    def retries(self, why: str) -> float:
        return self.metrics.value("gateway_retries_total", {"model": "m", "why": why})

    @property
    def outstanding(self) -> list[int]:
        return [replica.outstanding for replica in self.replicas.all]


def out_of_time(clock: Any) -> ClockTimeout:
    return ClockTimeout(clock, "too late", hint="wait")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (EngineUnreachable("nobody there"), "unreachable"),
        (Truncated("it broke off"), "broken"),
        (Overloaded("it is full"), "overloaded"),
        (out_of_time("connect"), "connect_timeout"),
    ],
)
async def test_what_another_replica_may_do_better_is_sent_to_another(error: GatewayError, why: str) -> None:
    case = Case(error)

    assert await case.at() == WORD

    assert case.sent == [A, B]
    assert case.outstanding == [0, 1, 0]
    assert case.retries(why) == 1
    assert case.owner.complaints == ([] if why == "overloaded" else [str(error)])


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("it is wrong"),
        EngineError("it cannot be understood"),
        SuspectEngineError("it failed while generating"),
        out_of_time("first_token"),
        out_of_time("total"),
        ClockTimeout("connect", "no free connection", hint="wait", engine_suspect=False),
    ],
)
async def test_what_every_replica_would_say_or_comes_too_late_is_the_answer(error: GatewayError) -> None:
    case = Case(error)

    assert await case.fails() is error
    assert case.sent == [A]
    assert case.outstanding == [0, 0, 0]


async def test_a_request_is_sent_nowhere_twice_and_fails_with_the_last_reason() -> None:
    errors = [EngineUnreachable(f"nobody at {name}") for name in "abc"]
    case = Case(*errors, max_retries=10)

    assert await case.fails() is errors[-1]
    assert case.sent == [A, B, C]


async def test_a_request_is_tried_again_as_often_as_the_operator_allows() -> None:
    case = Case(*(EngineUnreachable("nobody there") for _ in range(3)), max_retries=1)

    await case.fails()

    assert case.sent == [A, B]


async def test_a_client_that_has_left_is_not_tried_for_again() -> None:
    case = Case(asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await case.at()
    case.ticket.close()

    assert case.sent == [A]
    assert case.outstanding == [0, 0, 0]
    assert all(replica.failures == 0 for replica in case.replicas.all)


async def test_clocks_go_on_from_one_try_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0, 115.0, 115.0, 300.0])
    monkeypatch.setattr(attempting, "perf_counter", lambda: next(clock))
    case = Case()
    await case.at()

    first = case.attempts.clocks()
    assert (first.first_token_s, first.total_s) == (110.0, 590.0)

    await case.attempts.after(Truncated("it broke off"), case.ticket, case.send)
    later = case.attempts.clocks()  # its first token came in time, and the next one has a clock of its own
    assert (later.first_token_s, later.total_s) == (120.0, 585.0)


async def test_nothing_is_tried_again_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 230.0])
    monkeypatch.setattr(attempting, "perf_counter", lambda: next(clock))
    case = Case(EngineUnreachable("nobody there"))

    await case.fails()

    assert case.sent == [A]


async def test_failures_are_remembered_of_the_replica_that_failed() -> None:
    case = Case(urls=(A, B))
    for _ in range(3):
        case.replicas.all[1].outstanding = 100
        case.errors = [SuspectEngineError("it failed")]
        await case.fails()

    assert case.replicas.all[0].state is ReplicaState.EJECTED
