"""ASGI pieces that Starlette does not have: work that ends when the client leaves, and TGI's event stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.wire.tgi import KEEP_ALIVE

_T = TypeVar("_T")


class ClientGone(Exception):
    """The client closed its connection before it was answered."""


async def unless_gone(work: Coroutine[Any, Any, _T], receive: Receive) -> _T:
    """Run ``work``, cancelled at once when the client leaves, also before a slot or a first token.

    ``receive`` must have delivered the whole body. Raises ClientGone.
    """
    worker = asyncio.create_task(work)
    watcher = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({worker, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if worker.done():
            return worker.result()
        raise ClientGone
    finally:
        await _end(worker, watcher)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class EventStream(Response):
    """A body of server-sent events, with TGI's comment after every ``keep_alive_s`` of silence."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: Callable[[], AsyncGenerator[bytes]],
        *,
        headers: Mapping[str, str],
        keep_alive_s: float,
    ) -> None:
        self._events = events
        self._keep_alive_s = keep_alive_s
        self._last_sent_s = time.monotonic()
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **headers})

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        fields = {"content-type": "text/event-stream", **(headers or {})}
        self.raw_headers = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        keeper = asyncio.create_task(self._keep_alive(send))
        try:
            await unless_gone(self._pump(send), receive)
        except ClientGone:
            return
        finally:
            await _end(keeper)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, send: Send) -> None:
        async with aclosing(self._events()) as events:
            async for event in events:
                await self._emit(send, event)

    async def _emit(self, send: Send, event: bytes) -> None:
        self._last_sent_s = time.monotonic()
        await send({"type": "http.response.body", "body": event, "more_body": True})

    async def _keep_alive(self, send: Send) -> None:
        while True:
            due_s = self._last_sent_s + self._keep_alive_s - time.monotonic()
            if due_s > 0:
                await asyncio.sleep(due_s)
            else:
                await self._emit(send, KEEP_ALIVE)
