from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from gateway.errors import EngineTimeout
from gateway.schemas import Clocks, Completed, Token
from gateway.upstream.base import is_suspect
from gateway.upstream.watch import Watch

DEADLINE_S = 5.0


def token(text: str, index: int = 1, whole: str | None = None) -> dict[str, Any]:
    one = {"id": index, "text": text, "logprob": -0.5, "special": False}
    return {"index": index, "token": one, "generated_text": whole, "details": None}


HI = [token("Hello", 1), token(" wor", 2), token("ld", 3, "Hello world")]
WHOLE = ["STREAM", *HI, "END"]


@pytest.mark.parametrize(
    ("steps", "limits", "clock", "suspect"),
    [
        (["HOLD"], {"first_token_s": 0.2}, "first_token", True),
        (["STREAM", "HOLD"], {"first_token_s": 0.2}, "first_token", True),
        (["STREAM", *["KEEP-ALIVE", "PAUSE"] * 200], {"first_token_s": 0.2}, "first_token", True),
        (
            [b"HTTP/1.1 500 I\r\ncontent-length: 9\r\n\r\n", "HOLD"],
            {"first_token_s": 0.2},
            "first_token",
            True,
        ),
        (["STREAM", *HI[:2], "HOLD"], {"between_tokens_s": 0.2}, "between_tokens", True),
        (
            ["STREAM", *HI[:2], *["KEEP-ALIVE", "PAUSE"] * 200],
            {"between_tokens_s": 0.2},
            "between_tokens",
            True,
        ),
        (
            ["STREAM", *HI[:2], *[token("x", 9), "PAUSE"] * 200],
            {"total_s": 0.4, "between_tokens_s": 0.3},
            "total",
            False,
        ),
        (["HOLD"], {"total_s": 0.2}, "total", False),
    ],
)
@pytest.mark.parametrize("tokens", [True, False], ids=["streamed", "collected"])
async def test_each_clock_has_its_own_error(
    serve: Any,
    ask: Any,
    steps: list[Any],
    limits: dict[str, float],
    clock: str,
    suspect: bool,
    tokens: bool,
) -> None:
    async with serve(steps, WHOLE) as engine, asyncio.timeout(DEADLINE_S):
        with pytest.raises(EngineTimeout) as caught:
            await ask.collect(engine.url, limits=limits, tokens=tokens)
        await engine.left.wait()
        assert len(await ask.collect(engine.url)) == 4
    limit_s = limits[f"{clock}_s"]
    assert getattr(caught.value, "clock", None) == clock
    assert f"within {limit_s:g} s ({clock} clock)" in caught.value.message
    assert f"{clock}_s" in (caught.value.hint or "")
    assert is_suspect(caught.value) == suspect


async def test_the_connect_clock_has_its_own_error(deaf_url: str, ask: Any) -> None:
    caught = await ask.refused(deaf_url, limits={"connect_s": 0.2})
    assert getattr(caught, "clock", None) == "connect"
    assert isinstance(caught, EngineTimeout)
    assert is_suspect(caught)


async def test_no_free_connection_is_the_connect_clock_and_not_the_engines_fault(
    serve: Any, ask: Any
) -> None:
    async with serve(["STREAM", *HI[:2], "HOLD"]) as engine, ask.stream(engine.url):
        caught = await ask.refused(engine.url, limits={"connect_s": 0.1})
    assert getattr(caught, "clock", None) == "connect"
    assert "no free connection" in caught.message
    assert not is_suspect(caught)


async def test_a_caller_that_takes_its_time_costs_the_engine_nothing(serve: Any, ask: Any) -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    async with serve(["STREAM", HI[0], HI[1], HI[2], "END"]) as engine:
        seen = []
        never = asyncio.ensure_future(asyncio.Event().wait())
        async with ask.stream(engine.url, limits={"between_tokens_s": 0.1}) as pieces:
            async for piece in pieces:
                seen.append(piece)
                await asyncio.wait({never}, timeout=0.15)
        never.cancel()
    assert len(seen) == 4
    assert not faults


async def test_the_total_clock_is_looked_at_before_each_read(serve: Any, ask: Any) -> None:
    rest, never = asyncio.Event(), asyncio.ensure_future(asyncio.Event().wait())
    async with (
        serve(["STREAM", HI[0], rest, HI[2], "END"]) as engine,
        ask.stream(engine.url, limits={"total_s": 0.1}) as pieces,
    ):
        assert isinstance(await anext(pieces), Token)
        await asyncio.wait({never}, timeout=0.15)
        rest.set()
        with pytest.raises(EngineTimeout, match="total clock"):
            await anext(pieces)
    never.cancel()


async def test_a_wait_that_begins_too_late_fails_at_once() -> None:
    watch = Watch(Clocks(connect_s=1, first_token_s=0, between_tokens_s=1, total_s=1), "the engine")
    with pytest.raises(EngineTimeout, match="first_token clock"), watch:
        pytest.fail("the wait began")


async def test_a_cancellation_at_the_instant_of_a_clock_wins() -> None:
    watch = Watch(Clocks(connect_s=9, first_token_s=9, between_tokens_s=9, total_s=9), "the engine")

    async def wait() -> None:
        with watch:
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.wait({task}, timeout=0.01)
    task.cancel()
    watch._deadline = 0
    watch._ring()
    with pytest.raises(asyncio.CancelledError):
        await task
    watch.close()


async def test_a_cancellation_is_never_taken_for_a_clock(serve: Any, ask: Any) -> None:
    async with serve(["HOLD"]) as engine:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await ask.collect(engine.url, limits={"first_token_s": 0.5})


@pytest.mark.parametrize(
    "sent", [[], ["STREAM"], ["STREAM", HI[0]]], ids=["no head", "no token", "mid-stream"]
)
@pytest.mark.parametrize("tokens", [True, False], ids=["streamed", "collected"])
async def test_a_cancelled_request_closes_its_connection_at_once(
    serve: Any, ask: Any, sent: list[bytes], tokens: bool
) -> None:
    async with serve([*sent, "HOLD"], WHOLE) as engine, asyncio.timeout(DEADLINE_S):
        task = asyncio.create_task(ask.collect(engine.url, tokens=tokens))
        await engine.held.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await engine.left.wait()
        assert len(await ask.collect(engine.url)) == 4


async def test_a_request_cancelled_while_connecting_leaves_nothing_behind(
    deaf_url: str, serve: Any, ask: Any
) -> None:
    task = asyncio.create_task(ask.collect(deaf_url))
    done, _ = await asyncio.wait({task}, timeout=0.05)
    assert not done
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with serve(WHOLE) as engine:
        assert len(await ask.collect(engine.url)) == 4


@pytest.mark.parametrize("how", ["return", "error", "generator closed"])
async def test_leaving_a_stream_early_closes_its_connection_at_once(serve: Any, ask: Any, how: str) -> None:
    async def relay(url: str) -> AsyncGenerator[Token | Completed, None]:
        async with ask.stream(url) as pieces:
            async for piece in pieces:
                yield piece

    async def fail(url: str) -> None:
        async with ask.stream(url) as pieces:
            await anext(pieces)
            raise KeyError

    async with serve(["STREAM", *HI[:2], "HOLD"], WHOLE) as engine, asyncio.timeout(DEADLINE_S):
        if how == "generator closed":
            relayed = relay(engine.url)
            await anext(relayed)
            await relayed.aclose()
        elif how == "return":
            async with ask.stream(engine.url) as pieces:
                await anext(pieces)
        else:
            with pytest.raises(KeyError):
                await fail(engine.url)
        await engine.left.wait()
        assert len(await ask.collect(engine.url)) == 4


async def test_a_stream_can_be_entered_in_one_task_and_read_in_another(serve: Any, ask: Any) -> None:
    rest = asyncio.Event()
    async with serve(["STREAM", HI[0], rest, HI[2], "END"]) as engine, asyncio.timeout(DEADLINE_S):
        stream = ask.stream(engine.url)
        pieces = await asyncio.create_task(stream.__aenter__())

        async def read() -> list[Token | Completed]:
            return [piece async for piece in pieces]

        reading = asyncio.create_task(read())
        rest.set()
        assert len(await reading) == 3
        await stream.__aexit__(None, None, None)
