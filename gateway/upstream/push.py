"""One call to an engine whose answer is handed on as it comes: no task, no coroutine, no waiting.

The same exchange as ``exchange.open_stream``, with the same clocks and the same errors, turned around: there
a coroutine asks for the next piece, here the event loop brings it. What a token costs is then little more
than its bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from time import monotonic
from typing import Final, Protocol

import httpx

from gateway.errors import GatewayError, InternalError
from gateway.records import record
from gateway.schemas import Clocks, Completed, Piece
from gateway.upstream.alarms import Alarms
from gateway.upstream.base import Truncated
from gateway.upstream.calls import Call
from gateway.upstream.connection import Connection
from gateway.upstream.exchange import (
    END_OF_BODY_S,
    ERROR_BODY_BYTES,
    EVENT_STREAM,
    TROUBLE,
    Answer,
    Explain,
    other_than_a_stream,
    translated,
)
from gateway.upstream.pool import Pool
from gateway.upstream.transport import EngineHttp
from gateway.upstream.watch import Deadlines
from gateway.wire.sse import SseDecoder, SseOverflow, whole_events

logger = logging.getLogger("gateway.upstream")

_OK: Final = 200


class Reads(Protocol):
    """Makes pieces of the events of one answer. What goes wrong in it is raised as a GatewayError."""

    def check(self, first: bytes) -> None:
        """Raise what the first event is if it is an error."""
        ...

    def passes(self, data: bytes) -> bool:
        """Whether ``data`` is one event, a token in the middle, in the very bytes that clients may get."""
        ...

    def whole(self, data: bytes) -> Completed | None:
        """The answer, if ``data`` is all of it and nobody wants the tokens. None, and nothing was read,
        otherwise."""
        ...

    def pieces(self, batch: list[bytes]) -> Iterator[Piece]:
        """The pieces in the data of some events. Nothing is to be read after a Completed."""
        ...

    def broke_off(self) -> Truncated:
        """The error for a stream that ended before its last event."""
        ...


@record
class Pushed:
    """What is sent, and how what comes back is to be understood."""

    call: Call
    reading: Reads
    explain: Explain


class Receiver(Protocol):
    """Whom an answer is handed to. Either a Completed ends it, or ``failed``; nothing comes afterwards."""

    def began(self) -> None:
        """The first token is there. Its piece follows, if tokens were asked for."""
        ...

    def passed(self, event: bytes) -> None:
        """One token, as TGI wrote it; only to those who said that they take it so."""
        ...

    def came(self, piece: Piece) -> None: ...

    def failed(self, error: GatewayError) -> None: ...


class Push:
    """One call under way. ``begin`` it once; ``cancel`` closes it at once, and nobody is told."""

    __slots__ = (
        "_alarms",
        "_begun",
        "_call",
        "_clocks",
        "_connecting",
        "_connection",
        "_deadlines",
        "_decoder",
        "_explain",
        "_headed",
        "_held",
        "_http",
        "_origin",
        "_over",
        "_reading",
        "_receiver",
        "_refusal",
        "_request",
        "deadline",
    )

    def __init__(
        self,
        http: EngineHttp,
        pushed: Pushed,
        clocks: Clocks,
        receiver: Receiver,
        alarms: Alarms,
    ) -> None:
        self._http = http
        self._call = pushed.call
        self._reading = pushed.reading
        self._explain = pushed.explain
        self._clocks = clocks
        self._receiver = receiver
        self._alarms = alarms
        self._decoder: SseDecoder | None = None
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._refusal: bytearray | None = None
        self._headed = self._begun = self._held = self._over = False

    def begin(self, more: Mapping[str, str]) -> None:
        """Send the request, with the headers ``more``. What fails at once is told before this returns."""
        call, now = self._call, monotonic()
        self._deadlines = Deadlines(self._clocks, call, now)
        self.deadline = self._deadlines.next(now)
        self._alarms.add(self)
        try:
            self._origin, self._request = self._http.targets.request(
                call.method, call.base_url, call.path, call.content, more
            )
        except TROUBLE as error:
            self._fail(translated(error, call, 0, self._clocks))
            return
        self._connect()

    def cancel(self) -> None:
        """The rest is not wanted: the engine sees its client leave."""
        self._close()

    def hold(self) -> None:
        """Take nothing more for now; what goes beyond a little is not read from the engine either."""
        self._held = True

    def go_on(self) -> None:
        """The end of ``hold``."""
        if self._held:
            self._held = False
            if self._connection is not None:
                self.woken()

    # ------------------------------------------------------------ a connection

    def _connect(self) -> None:
        pool, origin = self._http.pool, self._origin
        connection = pool.spare(origin)
        if connection is not None:
            self._send(connection)
            return
        connect_s = self._clocks.connect_s
        making = pool.take(origin, connect_s=connect_s, pool_s=connect_s)
        self._connecting = asyncio.create_task(making)
        self._connecting.add_done_callback(self._connected)

    def _connected(self, making: asyncio.Task[Connection]) -> None:
        self._connecting = None
        if making.cancelled():
            return
        error = making.exception()
        if self._over:
            if error is None:
                making.result().discard()
        elif error is None:
            self._send(making.result())
        elif isinstance(error, TROUBLE):
            self._fail(translated(error, self._call, 0, self._clocks))
        else:
            self._fault(error)

    def _send(self, connection: Connection) -> None:
        self._connection = connection
        connection.listener = self
        try:
            connection.send(self._request)
        except Exception as error:  # the event loop would note it, and nobody be told
            self._fault(error)
            return
        if connection.broken:
            self.woken()

    # ------------------------------------------------------------ what comes

    def woken(self) -> None:
        """The connection has something: a head, more of the body, the end, or a failure."""
        try:
            self._look()
        except GatewayError as error:
            self._fail(error)
        except SseOverflow as error:
            self._fail(translated(error, self._call, self._deadlines.tokens))
        except Exception as error:  # nobody above would see it: the answer must not hang
            self._fault(error)

    def _look(self) -> None:
        connection = self._connection
        if connection is None:
            return
        if not self._headed and not self._head(connection):
            return
        if self._held:
            return
        data = connection.take()
        # Nearly all that ever comes is a token by itself, that passes as it is.
        if self._begun and self._decoder is None and self._reading.passes(data):
            self._deadlines.tokens += 1
            self.deadline = self._deadlines.next(monotonic())
            self._receiver.passed(data)
            if self._over:
                return
        elif self._refusal is not None:
            self._refused(connection, self._refusal, data)
            return
        elif data and self._read(data):
            return
        if connection.ended:
            raise self._reading.broke_off()
        if connection.broken:
            raise self._broken(connection)

    def _head(self, connection: Connection) -> bool:
        """Whether the head of the answer is there. One of another status makes the body a refusal."""
        if not connection.headed:
            if connection.broken:
                self._lost(connection)
            return False
        self._headed = True
        if connection.status != _OK:
            self._refusal = bytearray()
            return True
        kind = connection.header("content-type")
        if kind != EVENT_STREAM and (error := other_than_a_stream(kind, self._call)) is not None:
            raise error
        return True

    def _read(self, data: bytes) -> bool:
        """Hand the pieces on. True when that was all, or nobody wants more."""
        if not self._begun and (completed := self._reading.whole(data)) is not None:
            self._receiver.began()
            self._finish()
            self._receiver.came(completed)
            return True
        if self._decoder is None and (batch := whole_events(data)):
            pass  # how engines write: nothing is left over from one chunk to the next
        else:
            self._decoder = self._decoder or SseDecoder()
            batch = self._decoder.data(data)
        if not batch:
            return False
        self._deadlines.tokens += len(batch)
        if not self._begun:
            self._begun = True
            self._reading.check(batch[0])
            self._receiver.began()
        came = self._receiver.came
        for piece in self._reading.pieces(batch):
            if isinstance(piece, Completed):
                self._finish()
                came(piece)
                return True
            came(piece)
            if self._over:
                return True
        self.deadline = self._deadlines.next(monotonic())
        return False

    def _refused(self, connection: Connection, said: bytearray, data: bytes) -> None:
        said += data
        if connection.ended or len(said) > ERROR_BODY_BYTES:
            headers = httpx.Headers(connection.headers)
            raise self._explain(Answer(connection.status, headers, bytes(said)))
        if connection.broken:
            raise self._broken(connection)

    # ------------------------------------------------------------ how it ends

    def _lost(self, connection: Connection) -> None:
        """Before any head. A kept connection that ends without a byte was being closed as it was taken:
        the request goes to another one. A new connection has no such excuse."""
        connection.listener = None
        again = connection.ended_as_taken
        failure = connection.failure
        connection.discard()
        self._connection = None
        if again:
            self._connect()
        elif failure is not None:
            raise translated(failure, self._call, 0, self._clocks)

    def _broken(self, connection: Connection) -> GatewayError:
        failure = connection.failure or httpx.ReadError("the connection was closed")
        return translated(failure, self._call, self._deadlines.tokens)

    def ring(self, now: float) -> None:
        """The deadline has passed."""
        if self._held:
            # The client is waited for, not the engine. Only the total clock goes on.
            self.deadline = self._deadlines.next(now)
        if now >= self.deadline:
            self._fail(self._deadlines.error())

    def _fault(self, error: BaseException) -> None:
        logger.error("internal error", exc_info=error)
        self._fail(
            InternalError("Something went wrong inside the gateway.", hint="Its log has more about it.")
        )

    def _fail(self, error: GatewayError) -> None:
        if not self._over:
            self._close()
            self._receiver.failed(error)

    def _finish(self) -> None:
        """The answer is whole. The end of its body comes with it, or right behind it."""
        self._over = True
        self._alarms.remove(self)
        connection, self._connection = self._connection, None
        if connection is None:
            return
        connection.listener = None
        if connection.ended:
            self._http.pool.give_back(connection)
        else:
            _Tail(connection, self._http.pool, asyncio.get_running_loop())

    def _close(self) -> None:
        self._over = True
        self._alarms.remove(self)
        if self._connecting is not None:
            self._connecting.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.listener = None
            self._http.pool.give_back(connection)  # which keeps it behind a refusal that came whole


class _Tail:
    """Waits a moment for the end of a body whose last event was read: to wait for it keeps the connection."""

    __slots__ = ("_connection", "_pool", "_timer")

    def __init__(self, connection: Connection, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._pool = pool
        connection.listener = self
        self._timer = loop.call_later(END_OF_BODY_S, self._end)

    def woken(self) -> None:
        self._connection.take()
        if self._connection.ended or self._connection.broken:
            self._end()

    def _end(self) -> None:
        self._timer.cancel()
        self._connection.listener = None
        self._pool.give_back(self._connection)
