"""One call to an engine over HTTP, whatever its kind: an event stream, or one body.

Everything that httpx can raise becomes a GatewayError here and nowhere else.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import httpx

from gateway.errors import EngineError, GatewayError
from gateway.schemas import Clocks
from gateway.trail import current
from gateway.upstream.address import split_name
from gateway.upstream.base import EngineUnreachable, Truncated
from gateway.upstream.calls import Call
from gateway.upstream.transport import EngineHttp
from gateway.upstream.watch import Watch, clock_timeout
from gateway.wire.sse import SseDecoder, SseOverflow

EVENT_STREAM: Final = "text/event-stream"
_JSON: Final = {"content-type": "application/json"}
ERROR_BODY_BYTES: Final = 64 * 1024
_ANSWER_BYTES: Final = 64 * 1024 * 1024
# The end of a chunked body comes with the last event or right behind it. To wait for it keeps the connection.
END_OF_BODY_S: Final = 0.1
# A connection that is reset in the very moment in which it is made leaves anyio under uvloop without its
# transport: it asks None for its peer's name, and that AttributeError is all that httpx passes on.
TROUBLE: Final = (httpx.HTTPError, httpx.InvalidURL, SseOverflow, AttributeError)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. ``body`` of a refusal may be cut short."""

    status: int
    headers: httpx.Headers
    body: bytes


Explain = Callable[[Answer], GatewayError]


class Response(Protocol):
    """An answer whose head has come, whoever's transport brought it."""

    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> httpx.Headers: ...

    def header(self, name: str) -> str:
        """One header, ``name`` in lower case; empty when there is none."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the rest of the body, if any, is known to be here already."""
        ...

    def read(self) -> Coroutine[Any, Any, bytes]:
        """Block until there is some of the body; empty at its end."""
        ...

    async def aclose(self) -> None:
        """Close the connection, unless the whole body was read."""
        ...


class _OfHttpx:
    """httpx's response as ours."""

    ended = False

    def __init__(self, response: httpx.Response) -> None:
        self._chunks = response.aiter_raw()
        self.status_code = response.status_code
        self.headers = response.headers
        self.aclose = response.aclose

    def header(self, name: str) -> str:
        return str(self.headers.get(name, ""))

    async def read(self) -> bytes:
        return await anext(self._chunks, b"")


class DataStream:
    """The data lines of an open event stream; ``watch`` counts on them alone, never on keep-alives."""

    __slots__ = ("_call", "_decoder", "_finished", "_response", "_watch")

    def __init__(self, response: Response, watch: Watch, call: Call) -> None:
        self._response = response
        self._watch = watch
        self._call = call
        self._decoder = SseDecoder()
        self._finished = False

    async def batch(self) -> list[bytes]:
        """Block until at least one event is there, and return the data of all that are; empty at the end.

        Raises ClockTimeout, or SuspectEngineError when the connection breaks.
        """
        try:
            with self._watch:
                while chunk := await self._response.read():
                    if batch := self._decoder.data(chunk):
                        self._watch.came(len(batch))
                        return batch
        except TROUBLE as error:
            raise translated(error, self._call, self._watch.tokens) from error
        return []

    def finish(self) -> None:
        """Say that the last event was read: the connection may be used again."""
        self._finished = True

    async def close(self) -> None:
        """Close at once, but for the end of a finished body."""
        if self._finished and not self._response.ended:
            try:
                async with asyncio.timeout(END_OF_BODY_S):
                    while await self._response.read():
                        pass
            except (TimeoutError, httpx.HTTPError):
                pass  # the answer is whole; only the connection is lost
        await self._response.aclose()


@asynccontextmanager
async def open_stream(
    client: httpx.AsyncClient, call: Call, clocks: Clocks, explain: Explain
) -> AsyncIterator[DataStream]:
    """Send ``call`` and wait for the head of an event stream; ``explain`` makes errors of other statuses."""
    watch = Watch(clocks, call)
    try:
        response = await _opened(client, call, clocks, watch)
        stream = DataStream(response, watch, call)
        try:
            await _expect_stream(response, call, watch, explain)
            yield stream
        except BaseException:
            await response.aclose()
            raise
        await stream.close()
    finally:
        watch.close()


async def fetch(client: httpx.AsyncClient, call: Call, clocks: Clocks) -> Answer:
    """Send ``call`` and read its whole answer, under the connect and total clocks."""
    watch = Watch(replace(clocks, first_token_s=clocks.total_s), call)
    try:
        response = await _opened(client, call, clocks, watch)
        try:
            body = await _read(response, call, watch, _ANSWER_BYTES)
        finally:
            await response.aclose()
    finally:
        watch.close()
    if len(body) > _ANSWER_BYTES:
        raise EngineError(f"the answer of {call.address} is larger than {_ANSWER_BYTES} bytes")
    return Answer(response.status_code, response.headers, body)


async def _opened(client: httpx.AsyncClient, call: Call, clocks: Clocks, watch: Watch) -> Response:
    # Reading and writing have no time-out of their own: the watch knows what is being waited for.
    try:
        with watch:
            if isinstance(client, EngineHttp):
                return await client.open(
                    call.method, call.base_url, call.path, call.content, clocks.connect_s, current().headers
                )
            return await _sent(client, call, clocks.connect_s)
    except TROUBLE as error:
        raise translated(error, call, watch.tokens, clocks) from error


async def _sent(client: httpx.AsyncClient, call: Call, connect_s: float) -> Response:
    """The same through any client of httpx."""
    timeout = httpx.Timeout(None, connect=connect_s, pool=connect_s)
    where, name = split_name(call.base_url)
    headers = {} if call.content is None else {**_JSON, **current().headers}
    if name is not None:
        headers["host"] = name
    url = where.rstrip("/") + call.path
    request = client.build_request(call.method, url, content=call.content, headers=headers, timeout=timeout)
    return _OfHttpx(await client.send(request, stream=True))


async def _read(response: Response, call: Call, watch: Watch, limit_bytes: int) -> bytes:
    """The body, or a little more than ``limit_bytes`` of it."""
    body = bytearray()
    try:
        with watch:
            while chunk := await response.read():
                body += chunk
                if len(body) > limit_bytes:
                    break
    except TROUBLE as error:
        raise translated(error, call, watch.tokens) from error
    return bytes(body)


async def _expect_stream(response: Response, call: Call, watch: Watch, explain: Explain) -> None:
    status = response.status_code
    if status != httpx.codes.OK:
        body = await _read(response, call, watch, ERROR_BODY_BYTES)
        raise explain(Answer(status, response.headers, body))
    if (error := other_than_a_stream(response.header("content-type"), call)) is not None:
        raise error


def other_than_a_stream(content_type: str, call: Call) -> EngineError | None:
    """The error for an answer of status 200 that is not what was asked for."""
    if content_type == EVENT_STREAM:
        return None
    kind = content_type.partition(";")[0].strip().lower()
    if not kind or kind == EVENT_STREAM:
        return None
    return EngineError(
        f"{call.address} answered with {kind[:80]} instead of an event stream",
        hint="Check the address and the engine kind of this model in the registry.",
    )


def translated(error: Exception, call: Call, tokens: int, connecting: Clocks | None = None) -> GatewayError:
    """Our error for one of ``TROUBLE``, after so many tokens. ``connecting`` is given until the head of the
    answer has come."""
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout) and connecting:
        full = isinstance(error, httpx.PoolTimeout)
        happened = f"no {'free ' if full else ''}connection to {call.address}"
        return clock_timeout("connect", connecting.connect_s, happened, engine_suspect=not full)
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return EngineError(
            f"the engine's address is not usable: {error}", hint="Correct url in the registry."
        )
    if isinstance(error, SseOverflow):
        return EngineError(f"{call.address} sent what cannot be understood: {error}")
    return _broken(call, tokens, connecting is not None, error)


def _broken(call: Call, tokens: int, before_head: bool, error: Exception) -> GatewayError:
    if before_head:
        unreachable = EngineUnreachable(
            f"the engine is unreachable at {call.address}: {_reason(error)}",
            hint="It may still be loading, or have stopped: look at the model's state and the engine's log.",
        )
        unreachable.nothing_sent = isinstance(error, httpx.ConnectError)
        return unreachable
    return Truncated(
        f"truncated: the connection to {call.address} broke after {tokens} tokens: {_reason(error)}",
        hint="The engine may have stopped: look at its log, and send the request again.",
    )


def _reason(error: BaseException) -> str:
    """The operating system's words, which httpx keeps at the bottom of the chain of causes."""
    reason = str(error) or type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        if isinstance(cause, socket.gaierror):
            return f"its name cannot be resolved ({cause.strerror})"
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return reason
