"""Streams whose client leaves, or does not read: what they hold is given back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from harness import Running, model, until
from pydantic_core import to_json

from gateway.api.ops import _transitions
from gateway.api.streams import EventStream
from gateway.events import EventHub
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.api.services import Services

Start = Callable[..., Running]


async def never(*_: object) -> Any:
    await asyncio.Event().wait()


def posted(path: str, body: dict[str, object]) -> bytes:
    data = to_json(body)
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode() + data


def test_place_is_given_back_when_the_client_leaves_before_the_answer_has_begun(
    fast_engine: Running, gateway: Start
) -> None:
    """An answer that nobody reads fills the connection, so the beginning of the next one cannot be sent."""
    running = gateway({"models": [model(fast_engine.url)]}, max_body_bytes=20_000_000)
    big = posted("/v1/render", {"inputs": "a" * 8_000_000, "scenario": "raw"})
    streamed = posted("/v1/generate", {"inputs": "hello there", "stream": True})

    def in_flight() -> int:
        return int(running.get("/v1/models/echo").json()["in_flight"])

    def is_stuck() -> bool:
        """The engine has no delay: a place that is taken this often is held by the client."""
        return all(in_flight() == 1 for _ in range(20))

    with closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(running.url.rsplit(":", 1)[1])))
        client.sendall(big + streamed)
        until(is_stuck, "the generation to have a place, and to keep it")
    until(lambda: in_flight() == 0, "the place to be given back", 5)


async def test_stream_that_is_not_read_is_cut_off_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    closed: list[bool] = []

    async def chunks() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b"more"
        finally:
            closed.append(True)

    source = chunks()
    await EventStream(await anext(source), source, {}, 0.01)({"type": "http"}, never, never)

    assert closed == [True]
    assert [(line.levelname, line.exc_info) for line in caplog.records] == [("WARNING", None)]
    assert "not read to its end within 0.01 s" in caplog.text


async def test_time_that_runs_out_inside_a_stream_is_not_taken_for_its_own_limit() -> None:
    async def chunks() -> AsyncGenerator[bytes]:
        yield b"first"
        raise TimeoutError("of the source")

    async def send(_: object) -> None:
        return None

    source = chunks()
    with pytest.raises(TimeoutError, match="of the source"):
        await EventStream(await anext(source), source, {}, 60)({"type": "http"}, never, send)


async def test_no_change_is_missed_between_the_first_states_and_the_listening() -> None:
    hub = EventHub()

    class Manager:
        events = hub

        def view(self, name: str) -> SimpleNamespace:
            return SimpleNamespace(state=SimpleNamespace(value="stopped"))

    registry = SimpleNamespace(models=[SimpleNamespace(id="echo")])
    services = SimpleNamespace(registry=registry, manager=Manager(), settings=Settings())
    changes = _transitions(cast("Services", services))
    first = await anext(changes)
    hub.publish({"model_id": "echo", "state": "starting"})

    assert b'"stopped"' in first
    assert b'"starting"' in await anext(changes)
    hub.close()
    await changes.aclose()
    assert not hub._listeners
