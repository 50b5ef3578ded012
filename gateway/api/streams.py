"""Answers that take their time, and clients that leave before the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.config import Timeouts
from gateway.errors import ModelUnavailable
from gateway.model_manager import COME_BACK, SHUTTING_DOWN

logger = logging.getLogger("gateway.streams")

UNREAD_S = 60.0
"""Beyond all that an answer may take, a client has this long to read the rest of it."""

_GOODBYE_S = 1.0

Result = TypeVar("Result")

SSE_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would hold the tokens back
}


def stream_limit_s(times: Timeouts) -> float:
    """How long a stream may take at most, with all its waiting and reading."""
    return times.wait_s + times.total_s + UNREAD_S


def shutting_down() -> ModelUnavailable:
    """For whoever is still being answered when the gateway ends."""
    return ModelUnavailable(SHUTTING_DOWN, hint=COME_BACK)


class ClientLeft(Exception):
    """The client closed its connection. Nobody is there to read an answer."""


async def until_left(request: Request, work: Awaitable[Result]) -> Result:
    """Await ``work``; when the client leaves first, cancel it and raise ClientLeft.

    The server tells a running handler of a lost connection only through ``receive``.
    """
    with _cancelled_when_left(request.receive) as left:
        try:
            return await work
        except asyncio.CancelledError:
            if left.is_set():
                raise ClientLeft from None
            raise


class EventStream(Response):
    """Streams chunks as they come. Closes the source at once when the client leaves, and always.

    ``head`` is the first of ``chunks``, which the handler has read: closing a generator that has not begun
    runs none of its ``finally``, and what is refused before the first chunk keeps its own status.
    ``limit_s`` bounds the whole answer in seconds: a client that stops reading, but keeps its connection,
    would otherwise hold its place for ever. ``farewell`` is how the dialect says that the gateway ends before
    the stream does.
    """

    def __init__(
        self,
        head: bytes,
        chunks: AsyncGenerator[bytes],
        headers: Mapping[str, str],
        limit_s: float | None = None,
        farewell: bytes = b"",
    ) -> None:
        super().__init__(headers={**SSE_HEADERS, **headers})
        self._chunks = chunks
        self._head = head
        self._limit_s = limit_s
        self._farewell = farewell
        # Response() counted the bytes of an empty body.
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks):
            with _cancelled_when_left(receive) as left:
                clock = asyncio.timeout(self._limit_s)
                try:
                    async with clock:
                        await self._send(send)
                except TimeoutError:
                    if not clock.expired():
                        raise
                    logger.warning("stream cut off: not read to its end within %g s", self._limit_s)
                except asyncio.CancelledError:
                    if not left.is_set():
                        # The server ends, and has waited for its answers as long as it may.
                        await self._say_goodbye(send)

    async def _say_goodbye(self, send: Send) -> None:
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await send({"type": "http.response.body", "body": self._farewell, "more_body": False})
        except TimeoutError:
            logger.warning("stream cut off at the end without a word: it is not read")

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self._head, "more_body": True})
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@contextmanager
def _cancelled_when_left(receive: Receive) -> Iterator[asyncio.Event]:
    """Cancel the block when the client's connection is lost; the event says that this was the reason."""
    left = asyncio.Event()
    block = asyncio.current_task()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()
        if block is not None:
            block.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield left
    finally:
        watcher.cancel()
