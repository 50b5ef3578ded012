"""One HTTP/1.1 connection to an engine: bytes out, one answer at a time back in.

httptools reads, the event loop delivers; there is no task, no lock and no copy between the two. What
goes wrong is raised as httpx's exceptions, so that those above need not know whose transport they have.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Final, Protocol, cast

import httptools
import httpx

_HOLD_BYTES: Final = 64 * 1024  # of a body that nobody reads; then the engine is not read from either
_FRAMING_BYTES: Final = 256 * 1024  # of heads, extensions and trailers in a row, without one byte of a body
_UNUSED: Final = "the engine closed the connection before its use"
_NO_BODY: Final = frozenset({204, 304})
_CHUNKED: Final = b"transfer-encoding"
_LENGTH: Final = b"content-length"

Headers = list[tuple[bytes, bytes]]


class Owner(Protocol):
    """Whoever keeps the connection for its next exchange."""

    def lost(self, connection: Connection) -> None:
        """It is gone, whoever closed it. Called once."""
        ...


class Listener(Protocol):
    """Who is called when something has come, instead of awaiting it."""

    def woken(self) -> None:
        """There may be a head, more of the body, its end, or a failure. Must not raise."""
        ...


class Connection(asyncio.Protocol):
    """Give it a request with ``send``, await ``head``, then ``read`` until that is empty.

    Only one coroutine may wait at a time. With a ``listener`` nobody waits: it is called, and calls ``take``.
    ``discard`` closes at once, in whatever state it is.
    """

    __slots__ = (
        "_buffered",
        "_chunks",
        "_close_delimited",
        "_counted",
        "_failure",
        "_framing",
        "_headless",
        "_keep",
        "_loop",
        "_owner",
        "_parser",
        "_paused",
        "_poll",
        "_transport",
        "_waiter",
        "_writable",
        "busy",
        "ended",
        "headed",
        "headers",
        "idle_since",
        "listener",
        "on_body",
        "origin",
        "reused",
        "status",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: Owner, origin: object) -> None:
        self._loop = loop
        self._owner = owner
        self.origin = origin
        self.idle_since = 0.0
        self.reused = False
        self.busy = True
        self.listener: Listener | None = None
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        # What the parser calls with each part of a body. It asks for it once, so the list stays the same one.
        self.on_body = self._chunks.append
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._poll: Callable[[int], list[tuple[int, int]]] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._failure: Callable[[], httpx.TransportError] | None = None
        self._paused = False
        self._begin(headless=False)

    def _begin(self, *, headless: bool) -> None:
        self.status = 0
        self.headers: Headers = []
        self._headless = headless
        self.headed = False
        """Whether status and headers are there."""
        self.ended = False
        """Whether the whole answer is here, read or not."""
        self._close_delimited = False
        self._keep = True
        self._chunks.clear()
        self._counted = self._buffered = self._framing = 0

    # ------------------------------------------------------------ for whoever asks

    @property
    def usable(self) -> bool:
        """Whether a request may be written now. Bytes, or an end, that nobody asked for spoil a connection.

        Both may be in the operating system and not yet have been delivered, so it is asked too.
        """
        transport = self._transport
        if transport is None or transport.is_closing() or self._failure is not None or not self._keep:
            return False
        # Made for the first who comes again: many connections begin at once.
        if self._poll is None:
            self._poll = _poll_of(transport)
        return self._poll is None or not self._poll(0)

    @property
    def silent(self) -> bool:
        """Whether not a single byte of the answer has come."""
        return not self._framing and not self.headed

    @property
    def ended_as_taken(self) -> bool:
        """Of an exchange that broke: whether its kept connection was being closed already, without a byte of
        an answer (llama.cpp's server does so after a hundred requests). Another one may do; a new connection
        that ends has no such excuse."""
        return self.reused and self.silent

    def send(self, data: bytes, *, headless: bool = False) -> None:
        """Begin an exchange. ``data`` is the request, or its beginning; ``headless``: it is a HEAD.

        On a connection that was lost since it was taken nothing is sent, and the exchange is broken at once,
        by a ConnectError.
        """
        self._begin(headless=headless)
        self.busy = True
        if self._failure is not None or self._out().is_closing():
            self._failure = _caused(httpx.ConnectError, self.failure, _UNUSED)
        else:
            self._out().write(data)

    async def send_more(self, data: bytes) -> bool:
        """More of the request's body. False, and nothing is sent, once the answer has begun or it broke."""
        if self.headed or self._failure is not None:
            return False
        self._out().write(data)
        if self._writable is not None:
            await self._writable
        return True

    async def head(self) -> None:
        """Block until status and headers are there. Raises httpx.TransportError."""
        while not self.headed:
            await self._more()

    async def read(self) -> bytes:
        """Block until there is some of the body, and return all of it that is there; empty at its end."""
        while not self._chunks:
            if self.ended:
                return b""
            if self._failure is not None:
                raise self._failure()
            # As in _more: once per token, a coroutine less counts.
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.take()

    def take(self) -> bytes:
        """All of the body that is there and was not taken yet."""
        chunks = self._chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._counted = self._buffered = 0
        if self._paused:
            self._paused = False
            if not self._out().is_closing():
                self._out().resume_reading()
        return data

    def header(self, name: str) -> str:
        """One header of the answer, ``name`` in lower case; empty when there is none."""
        wanted = name.encode()
        for key, value in self.headers:
            if key.lower() == wanted:
                return value.decode("latin-1")
        return ""

    @property
    def broken(self) -> bool:
        """Whether something broke the exchange. Once the answer is whole nothing can."""
        return self._failure is not None

    @property
    def failure(self) -> httpx.TransportError | None:
        """What broke it."""
        return None if self._failure is None else self._failure()

    @property
    def reusable(self) -> bool:
        """Whether the exchange left nothing behind: the whole answer came, and all of the request went."""
        transport = self._out()
        if not self.ended or not self._keep or self._headless or self._paused or transport.is_closing():
            return False
        return transport.get_write_buffer_size() == 0

    def spoil(self) -> None:
        """Not to be used again after this exchange: the request did not go out whole."""
        self._keep = False

    def discard(self) -> None:
        """Close at once, whatever is under way."""
        self._fail(lambda: httpx.ReadError("the connection was closed"))
        if self._transport is not None:
            self._transport.abort()

    async def _more(self) -> None:
        if self._failure is not None:
            raise self._failure()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _out(self) -> asyncio.Transport:
        if self._transport is None:
            raise RuntimeError("the connection was never made")
        return self._transport

    def _wake(self) -> None:
        if self.listener is not None:
            self.listener.woken()
            return
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, failure: Callable[[], httpx.TransportError]) -> None:
        if self._failure is None:
            self._failure = failure
        self.resume_writing()
        self._wake()

    # ------------------------------------------------------------ the event loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self.busy or self._parser is None:
            self.discard()  # nobody asked
            return
        self._framing += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._broken("the engine changed the protocol, which nobody asked for")
            return
        except httptools.HttpParserError as error:
            self._keep = False
            if not self.ended:
                self._broken(str(error))
                return
        if len(self._chunks) > self._counted:
            self._count()
        if self._framing > _FRAMING_BYTES:
            self._broken(
                f"more than {_FRAMING_BYTES} bytes of headers or framing without a body between them"
            )
        elif self._buffered > _HOLD_BYTES and not self._paused and not self.ended:
            self._paused = True
            self._out().pause_reading()
        if self.headed:
            self._wake()

    def eof_received(self) -> None:
        self._keep = False
        if self._close_delimited:
            self.ended = True
            self._wake()
        elif not self.ended:
            self._broken(self._cut_short())

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep = False
        if not self.ended:
            self._fail(
                _caused(httpx.ReadError, exc) if exc is not None else _protocol_error(self._cut_short())
            )
        self._parser = None  # it holds this connection, and would have to be found by the collector
        self._poll = None
        self.resume_writing()
        self._wake()
        self._owner.lost(self)

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def _cut_short(self) -> str:
        if self.headed:
            return "the engine closed the connection before the end of its answer"
        return "the engine closed the connection without an answer"

    def _broken(self, what: str) -> None:
        self._keep = False
        self._fail(_protocol_error(what))
        self._out().abort()

    # ------------------------------------------------------------ the parser's side

    def on_message_begin(self) -> None:
        if self.ended:
            self._keep = False  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.headed:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        if self.ended or self.headed or parser is None:
            return
        status = parser.get_status_code()
        if status < 200:
            self.headers = []
            return
        self.status = status
        self.headed = True
        names = {name.lower() for name, _ in self.headers}
        self._keep = self._keep and parser.should_keep_alive()
        if self._headless:
            self.ended = True
        elif _CHUNKED not in names and _LENGTH not in names and status not in _NO_BODY:
            self._close_delimited = True
            self._keep = False

    def on_message_complete(self) -> None:
        if self.headed:
            if not self.ended:
                self._count()
            self.ended = True
            self._framing = 0

    def _count(self) -> None:
        """Note what has come of the body. What comes after its end belongs to nobody."""
        chunks, counted = self._chunks, self._counted
        self._framing = 0
        if self.ended:
            self._keep = False
            del chunks[counted:]
            return
        for chunk in chunks[counted:] if counted else chunks:
            self._buffered += len(chunk)
        self._counted = len(chunks)


def _poll_of(transport: asyncio.Transport) -> Callable[[int], list[tuple[int, int]]] | None:
    """What tells whether anything has come; None where the system cannot say."""
    sock = transport.get_extra_info("socket")
    if sock is None or not hasattr(select, "poll"):
        return None
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return poll.poll


def _protocol_error(what: str) -> Callable[[], httpx.TransportError]:
    return lambda: httpx.RemoteProtocolError(what)


def _caused(
    kind: type[httpx.TransportError], cause: Exception | None, otherwise: str = ""
) -> Callable[[], httpx.TransportError]:
    """``otherwise``: what is said where no cause is known."""

    def make() -> httpx.TransportError:
        error = kind(otherwise if cause is None else str(cause))
        error.__cause__ = cause
        return error

    return make
