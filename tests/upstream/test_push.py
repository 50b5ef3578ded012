"""Answers that are handed on as they come: who is told what, which clocks ring, what is kept."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from wire_server import lose_all

from gateway.errors import GatewayError, InternalError, InvalidRequest
from gateway.schemas import Clocks, Completed, Piece, RawTokens
from gateway.upstream.base import ClockTimeout, EngineUnreachable, Truncated
from gateway.upstream.push import Alarms, Push
from gateway.upstream.tgi import TgiEngine
from gateway.upstream.transport import EngineHttp, FastTransport

PATIENT = Clocks(5, 20, 20, 60)
TOKEN = (
    b'data: {"index":1,"token":{"id":7,"text":" a","logprob":-0.1,"special":false},'
    b'"generated_text":null,"details":null}\n\n'
)
LAST = TOKEN.replace(b'"generated_text":null', b'"generated_text":" a"')


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass
class Listener:
    """Notes what it is told; ``over`` once that was the end."""

    told: list[Piece | bytes | str] = field(default_factory=list)
    error: GatewayError | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    then: Callable[[], None] = lambda: None
    """Called with each token."""

    def began(self) -> None:
        self.told.append("began")

    def passed(self, event: bytes) -> None:
        self._hear(event)

    def came(self, piece: Piece) -> None:
        self._hear(piece)
        if isinstance(piece, Completed):
            self.over.set()

    def failed(self, error: GatewayError) -> None:
        assert self.error is None
        self.error = error
        self.over.set()

    def _hear(self, told: Piece | bytes) -> None:
        assert not self.over.is_set(), "told something after the end"
        self.told.append(told)
        self.news.set()
        self.then()

    @property
    def kinds(self) -> list[str]:
        return [one if isinstance(one, str) else type(one).__name__ for one in self.told]


@dataclass
class Caller:
    http: EngineHttp
    alarms: Alarms = field(default_factory=Alarms)

    def push(
        self, url: str, listener: Listener, clocks: Clocks = PATIENT, *, tokens: bool = True, raw: bool = True
    ) -> Push:
        pushed = TgiEngine(self.http).form((), {}).push(url, "x", tokens=tokens, raw=raw)
        return Push(self.http, pushed, clocks, listener, self.alarms)

    async def told(self, url: str, clocks: Clocks = PATIENT, **options: Any) -> Listener:
        listener = Listener()
        self.push(url, listener, clocks, **options).begin({})
        async with asyncio.timeout(20):
            await listener.over.wait()
        return listener


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with EngineHttp(FastTransport()) as http:
        yield Caller(http)


async def at_rest(caller: Caller) -> None:
    """Until no clock is looked at any more, and no connection is busy."""
    async with asyncio.timeout(10):
        while caller.alarms._timer is not None or any(one.busy for one in caller.http.pool._all):
            await asyncio.sleep(0.01)
    assert not caller.alarms._all


async def test_tokens_pass_as_they_were_written(serve: Any, caller: Caller) -> None:
    async with serve(["STREAM", chunk(TOKEN), "PAUSE", chunk(TOKEN), "PAUSE", chunk(LAST), "END"]) as engine:
        listener = await caller.told(engine.url)
        assert listener.told[0] == "began"
        assert listener.kinds == ["began", "RawTokens", "bytes", "Token", "Completed"]
        assert listener.told[1] == RawTokens(TOKEN, 1)
        assert listener.told[2] == TOKEN
        await at_rest(caller)


@pytest.mark.parametrize("at", range(1, len(TOKEN + LAST), 7))
async def test_events_may_be_cut_anywhere(serve: Any, caller: Caller, at: int) -> None:
    data = TOKEN + LAST
    async with serve(["STREAM", chunk(data[:at]), "PAUSE", chunk(data[at:]), "END"]) as engine:
        listener = await caller.told(engine.url)
        done = listener.told[-1]
        assert isinstance(done, Completed)
        assert done.completion_tokens == 2


async def test_who_wants_the_whole_is_told_that_alone(serve: Any, caller: Caller) -> None:
    async with serve(["STREAM", chunk(TOKEN), "PAUSE", chunk(TOKEN + LAST), "END"]) as engine:
        assert (await caller.told(engine.url, tokens=False)).kinds == ["began", "Completed"]


async def test_a_kept_connection_that_ends_as_it_is_taken_costs_another_try(
    serve: Any, caller: Caller
) -> None:
    good = ["STREAM", chunk(LAST), "END"]
    async with serve(good, ["CLOSE"], good) as engine:
        assert (await caller.told(engine.url)).error is None
        await at_rest(caller)
        assert (await caller.told(engine.url)).error is None
        assert (len(engine.requests), engine.connections) == (3, 2)


async def test_a_new_connection_that_ends_has_no_such_excuse(serve: Any, caller: Caller) -> None:
    async with serve(["CLOSE"]) as engine:
        listener = await caller.told(engine.url)
        assert isinstance(listener.error, EngineUnreachable)
        assert not listener.error.nothing_sent
        assert len(engine.requests) == 1


async def test_a_connection_that_is_lost_before_its_use_is_told_and_nothing_was_sent(
    serve: Any, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that dies may still take connections, and end them before anything is sent."""
    async with serve(["HOLD"]) as engine:
        lose_all(monkeypatch)
        listener = await caller.told(engine.url)
        assert isinstance(listener.error, EngineUnreachable)
        assert listener.error.nothing_sent
        assert engine.requests == []
        await at_rest(caller)


async def test_nobody_listens(caller: Caller) -> None:
    listener = await caller.told("http://127.0.0.1:1")
    assert isinstance(listener.error, EngineUnreachable)
    assert listener.error.nothing_sent
    await at_rest(caller)


@pytest.mark.parametrize("url", ["http://", "ftp://x", "http://[::1", "http://x\r\ny"])
async def test_an_address_that_is_none_is_told_before_begin_returns(caller: Caller, url: str) -> None:
    listener = Listener()
    caller.push(url, listener).begin({})
    assert listener.error is not None
    await at_rest(caller)


async def test_a_refusal_that_came_whole_keeps_its_connection(serve: Any, caller: Caller) -> None:
    refusal = ("422 Unprocessable", {"error": "no", "error_type": "validation"})
    async with serve([refusal], ["STREAM", chunk(LAST), "END"]) as engine:
        assert isinstance((await caller.told(engine.url)).error, InvalidRequest)
        assert (await caller.told(engine.url)).error is None
        assert engine.connections == 1


@pytest.mark.parametrize("end", ["HOLD", "CLOSE", b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", b"zz\r\n"])
async def test_an_answer_is_whole_at_its_last_event_whatever_follows(
    serve: Any, caller: Caller, end: Any
) -> None:
    good = ["STREAM", chunk(LAST), "END"]
    async with serve(["STREAM", chunk(LAST), "PAUSE", end], good) as engine:
        assert (await caller.told(engine.url)).error is None
        await at_rest(caller)
        assert (await caller.told(engine.url)).error is None
        assert engine.connections == 2


async def test_an_end_that_comes_by_itself_keeps_the_connection(serve: Any, caller: Caller) -> None:
    script = ["STREAM", chunk(LAST), "PAUSE", "END"]
    async with serve(script, script) as engine:
        for _ in range(2):
            assert (await caller.told(engine.url)).error is None
            await at_rest(caller)
        assert engine.connections == 1


@pytest.mark.parametrize(
    ("script", "clocks", "clock"),
    [
        (["HOLD"], Clocks(5, 0.2, 20, 60), "first_token"),
        (["STREAM", "KEEP-ALIVE", "HOLD"], Clocks(5, 0.2, 20, 60), "first_token"),
        (["STREAM", chunk(TOKEN), "KEEP-ALIVE", "HOLD"], Clocks(5, 20, 0.2, 60), "between_tokens"),
        (["STREAM", chunk(TOKEN), "HOLD"], Clocks(5, 20, 20, 0.3), "total"),
        ([b"HTTP/1.1 500 I\r\ncontent-length: 9\r\n\r\nno", "HOLD"], Clocks(5, 0.2, 20, 60), "first_token"),
    ],
)
async def test_clocks(serve: Any, caller: Caller, script: list[Any], clocks: Clocks, clock: str) -> None:
    async with serve(script) as engine:
        listener = await caller.told(engine.url, clocks)
        assert isinstance(listener.error, ClockTimeout)
        assert listener.error.clock == clock
        async with asyncio.timeout(10):
            await engine.left.wait()
        await at_rest(caller)


async def test_connecting_has_a_clock(caller: Caller, deaf_url: str) -> None:
    listener = await caller.told(deaf_url, Clocks(0.1, 20, 20, 60))
    assert isinstance(listener.error, ClockTimeout)
    assert listener.error.clock == "connect"


async def test_while_it_is_held_only_the_total_clock_goes_on(serve: Any, caller: Caller) -> None:
    async with serve(["STREAM", chunk(TOKEN), "PAUSE", chunk(LAST), "END"]) as engine:
        listener = Listener()
        push = caller.push(engine.url, listener, Clocks(5, 20, 0.1, 0.8))
        listener.then = push.hold
        push.begin({})
        async with asyncio.timeout(20):
            await listener.over.wait()
        assert isinstance(listener.error, ClockTimeout)
        assert listener.error.clock == "total"
        assert listener.kinds == ["began", "RawTokens"]


async def test_what_was_held_goes_on_where_it_was(serve: Any, caller: Caller) -> None:
    async with serve(["STREAM", chunk(TOKEN), "PAUSE", chunk(TOKEN), chunk(LAST), "END"]) as engine:
        listener = Listener()
        push = caller.push(engine.url, listener)
        listener.then = push.hold
        push.begin({})
        async with asyncio.timeout(20):
            await listener.news.wait()
            connection = push._connection
            assert connection is not None
            while not connection.ended:
                await asyncio.sleep(0.01)
        assert listener.kinds == ["began", "RawTokens"]
        listener.then = lambda: None
        push.go_on()
        assert listener.kinds[-1] == "Completed"


async def test_an_engine_is_not_read_from_while_it_is_held(serve: Any, caller: Caller) -> None:
    async with serve(["STREAM", chunk(TOKEN), "PAUSE", *[chunk(TOKEN * 100)] * 2000, "HOLD"]) as engine:
        listener = Listener()
        push = caller.push(engine.url, listener)
        listener.then = push.hold
        push.begin({})
        async with asyncio.timeout(20):
            await listener.news.wait()
            connection = push._connection
            assert connection is not None
            while not connection._paused:
                await asyncio.sleep(0.01)
        assert connection._buffered < 1_000_000
        push.cancel()
        await at_rest(caller)


@pytest.mark.parametrize("when", ["connecting", "asked", "streaming"])
async def test_cancelled_nobody_is_told_and_the_engine_sees_it(serve: Any, caller: Caller, when: str) -> None:
    script = ["STREAM", chunk(TOKEN), "HOLD"] if when == "streaming" else ["HOLD"]
    async with serve(script) as engine:
        listener = Listener()
        push = caller.push(engine.url, listener)
        push.begin({})
        async with asyncio.timeout(20):
            if when != "connecting":
                await engine.held.wait()
            if when == "streaming":
                await listener.news.wait()
            push.cancel()
            if when != "connecting":
                await engine.left.wait()
        await at_rest(caller)
        assert not listener.over.is_set()
        assert not caller.http.pool._all


async def test_cancelled_by_who_is_told_nothing_more_is_told(serve: Any, caller: Caller) -> None:
    async with serve(["STREAM", chunk(TOKEN + TOKEN), "PAUSE", chunk(LAST), "END"]) as engine:
        listener = Listener()
        push = caller.push(engine.url, listener, raw=False)
        listener.then = push.cancel
        push.begin({})
        async with asyncio.timeout(20):
            await engine.left.wait()
        await at_rest(caller)
        assert listener.kinds == ["began", "Token"]


async def test_a_fault_of_the_reader_is_told(serve: Any, caller: Caller, caplog: Any) -> None:
    class Odd(Listener):
        def began(self) -> None:
            raise RuntimeError("odd")

    async with serve(["STREAM", chunk(LAST), "HOLD"]) as engine:
        listener = Odd()
        caller.push(engine.url, listener).begin({})
        async with asyncio.timeout(20):
            await listener.over.wait()
        assert isinstance(listener.error, InternalError)
        assert "internal error" in caplog.text


async def test_an_alarm_that_goes_wrong_stops_no_other(caller: Caller) -> None:
    rung = asyncio.Event()

    class Odd:
        deadline = 0.0

        def ring(self, now: float) -> None:
            caller.alarms.remove(self)  # type: ignore[arg-type]
            raise RuntimeError("odd")

    class Later:
        deadline = 0.0

        def ring(self, now: float) -> None:
            caller.alarms.remove(self)  # type: ignore[arg-type]
            rung.set()

    said: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    caller.alarms.add(Odd())  # type: ignore[arg-type]
    caller.alarms.add(Later())  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        await rung.wait()
    await at_rest(caller)
    assert len(said) <= 1


async def test_nothing_is_left_to_the_collector(serve: Any, caller: Caller) -> None:
    scripts = [["STREAM", chunk(TOKEN), "PAUSE", chunk(LAST), "END"], ["STREAM", chunk(TOKEN), "CLOSE"]]
    async with serve(*scripts) as engine:
        gc.collect()
        gc.disable()
        try:
            listener = await caller.told(engine.url)
            assert listener.error is None
            listener = await caller.told(engine.url)
            assert isinstance(listener.error, Truncated)
            listener.error = None  # which knows where it was raised
            await at_rest(caller)
            assert not [one for one in gc.get_objects() if isinstance(one, Push)]
        finally:
            gc.enable()
