"""A connection as the server has it, with the clocks and the limit that uvicorn lacks, and the fast path.

uvicorn ends a connection that idles between two requests. It does not end one on which a request's head never
gets complete, or whose client stops reading; and a head may be as long as it likes.

A request that may take the fast path is held until it is whole, and offered to it. Otherwise uvicorn gets it,
as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import to_json
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import is_ssl

from gateway.api.context import error_body, new_request_id
from gateway.cycles import UntilTheEnd, cycle_of, locate
from gateway.errors import GatewayError, HeadTooLarge, RequestTimeout
from gateway.fastpath.entry import FastPath
from gateway.fastpath.heads import Known
from gateway.fastpath.passage import Passage
from gateway.fastpath.routes import ROUTES
from gateway.settings import Settings
from gateway.tickets import Begun
from gateway.wire.heads import without_upgrade

logger = logging.getLogger("gateway.connections")

MAX_HEAD_BYTES: Final = 65_536
"""Request line and headers together."""

MOST_IN_A_ROW: Final = 16
"""Requests that may wait on one connection, each for the answer to the one before it."""

GRACE_S: Final = 0.02
"""Many clients send a body right behind its head, in another packet. The fast path waits this long for it."""


@dataclass(frozen=True, slots=True)
class Patience:
    """``receive_s``: for the whole head of a request, and for a body that nobody waits for. ``send_s``: for a
    client that takes nothing of what is there for it. ``keep_alive_s``: between two requests."""

    receive_s: float
    send_s: float
    keep_alive_s: float

    @classmethod
    def of(cls, settings: Settings) -> Patience:
        return cls(settings.receive_timeout_s, settings.send_timeout_s, settings.keep_alive_s)


class Connection(HttpToolsProtocol):
    """uvicorn's own protocol; what is added watches, ends the connection, and offers requests to a fast path.

    A connection of which nothing has come, or only a part of a head, is on the clock. So is the rest of a
    body whose request is answered already. A body that a handler waits for is that handler's business.
    """

    def __init__(
        self, *arguments: Any, patience: Patience, fast: Callable[[], FastPath | None], **more: Any
    ) -> None:
        super().__init__(*arguments, **more)
        self._patience = patience
        self._fast = fast()
        self._body: list[bytes] | None = None  # of a request that is held for the fast path
        self._body_bytes = 0
        self._grace: asyncio.TimerHandle | None = None
        self._passage: Passage | None = None
        self._taken: tuple[Known, bytes] | None = None  # its head and body
        self._chunk, self._chunk_bytes = b"", 0
        self._idle: asyncio.TimerHandle | None = None
        self._idle_since = 0.0
        self._answering: RequestResponseCycle | None = None  # on the ordinary way
        self._receiving: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None
        self._in_head = False  # a part of one is there
        self._in_body = False
        self._head_bytes = 0
        self._refused = False

    # ------------------------------------------------------------ clocks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # As uvicorn's, but for the addresses of both ends: see ``locate``.
        self.connections.add(self)
        self.transport, self.flow = transport, FlowControl(transport)
        self.scheme = "https" if is_ssl(transport) else "http"
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_expecting()
        if self._idle is not None:
            self._idle.cancel()
        if self._body is not None:
            self._go_ordinary()  # where it is noted that its client left
        passage, self._passage = self._passage, None
        if passage is not None:
            passage.left()
        if self._answering is not None and not self._answering.response_complete:
            # uvicorn tells only the last of several requests that were sent in a row.
            self._answering.disconnected = True
            self._answering.message_event.set()
        self.resume_writing()
        super().connection_lost(exc)
        self._forget()

    def _forget(self) -> None:
        """What knows this connection is let go, so that it goes without the collector, which comes late."""
        if self.cycle is not None and self.cycle.response_complete:
            self.cycle = None  # type: ignore[assignment]  # as before the first request
        self._answering = self._taken = self._idle = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._passage is not None:
            self._passage.hold()
        if self._sending is None:
            self._sending = self.loop.call_later(self._patience.send_s, self._not_read)

    def resume_writing(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        if self.flow is not None:
            super().resume_writing()
        if self._passage is not None:
            self._passage.go_on()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._idle_since = self.loop.time()
        if self._in_body:
            self._expect()

    def _expect(self) -> None:
        if self._receiving is None:
            self._receiving = self.loop.call_later(self._patience.receive_s, self._not_received)

    def _stop_expecting(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
            self._receiving = None

    def _not_received(self) -> None:
        self._receiving = None
        if self.cycle is not None and not self.cycle.response_complete:
            # An answer is on its way to whoever sends the next head this slowly.
            self._expect()
        elif self._in_head:
            what = f"The head of the request was not complete within {self._patience.receive_s:g} s."
            self._refuse(RequestTimeout(what, hint="Send it again, faster."))
        else:
            self.transport.close()

    def _not_read(self) -> None:
        """What the client does not take is dropped. Whoever waits to send more sees that it has left."""
        self._sending = None
        logger.warning("connection cut off: nothing was read from it within %g s", self._patience.send_s)
        self.transport.abort()

    # ------------------------------------------------------------ what comes

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._between_requests():
            if self._fast is not None and self._take_known(self._fast, data):
                return
            data = without_upgrade(data)
        # Of a head that began before, or behind a body, these are not all bytes: nobody may learn from them.
        self._chunk_bytes, self._chunk = len(data), b"" if self._in_head or self._in_body else data
        super().data_received(data)
        self._chunk = b""
        if self._body is not None and self._grace is None:
            self._grace = self.loop.call_later(GRACE_S, self._go_ordinary)
        if self._in_head and not self._refused:
            # Most heads come in one piece, and cost no clock.
            self._expect()
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._too_large()

    def on_message_begin(self) -> None:
        if self.server is None:
            locate(self)
        super().on_message_begin()
        self._in_head, self._in_body, self._head_bytes = True, False, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # what comes behind a body is a trailer, and says nothing here
            super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        if self._refused:
            return  # what follows in the same bytes
        self._in_head, self._in_body = False, True
        self._stop_expecting()
        if self._head_is_too_large():
            self._too_large()
        elif self._may_be_fast():
            self._body, self._body_bytes = [], 0
        else:
            super().on_headers_complete()
            if self.parser.get_http_version() == "1.0":
                self.cycle.__class__ = UntilTheEnd  # of the same form: uvicorn makes its cycles itself
            if len(self.pipeline) < MOST_IN_A_ROW:
                # uvicorn stops reading while a request waits for the one before it, and then does not see
                # that the client has left.
                self.flow.resume_reading()

    def _head_is_too_large(self) -> bool:
        if self._head_bytes + self._chunk_bytes <= MAX_HEAD_BYTES:
            return False
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES

    def on_body(self, body: bytes) -> None:
        if self._refused:
            return
        if self._body is None:
            super().on_body(body)
            return
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > HIGH_WATER_LIMIT:
            self._go_ordinary()

    def on_message_complete(self) -> None:
        self._in_body = False
        if self._refused or (self._body is not None and self._take()):
            return
        if self.cycle.response_complete:
            self._stop_expecting()
        super().on_message_complete()

    # ------------------------------------------------------------ the fast path

    def _may_be_fast(self) -> bool:
        """Whether the request, of which the head is there, is one of those that the fast path answers."""
        return (
            self.url in ROUTES
            and self._fast is not None
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.expect_100_continue
            and (self.cycle is None or self.cycle.response_complete)
            and not self.root_path
        )

    def _take(self) -> bool:
        """Offer the request, which is whole. False when it goes the ordinary way, and has been sent there."""
        parts, fast = self._body or [], self._fast
        self._drop_grace()
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        known = None
        if fast is not None:
            known = fast.know(self.url, self.headers, keep_alive=self.parser.should_keep_alive())
        if fast is None or known is None or not self._begin(fast, known, body):
            self._go_ordinary()
            return False
        self._body = None
        fast.heads.learn(self._chunk, body, known)
        return True

    def _between_requests(self) -> bool:
        """Whether whatever comes now is the beginning of a request, and nothing is being answered."""
        if self._in_head or self._in_body or self._body is not None:
            return False
        return self.cycle is None or self.cycle.response_complete

    def _take_known(self, fast: FastPath, data: bytes) -> bool:
        """Take a whole request whose head was read before. False, and nothing has happened, otherwise."""
        found = fast.heads.find(data)
        if found is None or not self._begin(fast, found[0], found[1]):
            return False
        self._stop_expecting()
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        return True

    def _begin(self, fast: FastPath, known: Known, body: bytes) -> bool:
        if self.flow.write_paused:
            return False  # the client does not read: the ordinary way waits before it writes more
        passage = fast.take(self, known, body)
        if passage is None:
            return False
        self._taken = (known, body)
        self.cycle = passage  # type: ignore[assignment]  # what uvicorn asks of a cycle it has
        self._passage = passage
        passage.begin()
        return True

    def _go_ordinary(self) -> None:
        """uvicorn gets what has come so far; the rest goes there by itself."""
        parts, self._body = self._body or [], None
        self._drop_grace()
        super().on_headers_complete()
        for part in parts:
            super().on_body(part)

    def _drop_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def opening(self, status: int = 200) -> bytes:
        """The beginning of an answer."""
        always, fast = self.server_state.default_headers, self._fast
        if status == 200 and fast is not None and fast.opening[0] is always:
            return fast.opening[1]  # a new list comes with each second's date
        lines = [b"%b: %b\r\n" % pair for pair in always]
        opening = b"".join([STATUS_LINE[status], *lines])
        if status == 200 and fast is not None:
            fast.opening = (always, opening)
        return opening

    def shutdown(self) -> None:
        """A request whose head has come is finished, so also one that is held for its body."""
        if self._body is not None:
            self._go_ordinary()
        super().shutdown()

    def over(self, passage: Passage) -> None:
        """A passage has written its whole answer."""
        self._passage = None
        if not passage.keep_alive:
            self.transport.close()
        if self.pipeline or self._in_body or not passage.keep_alive:
            self.on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.flow.read_paused:
            self.flow.resume_reading()
        self._rest()

    def _rest(self) -> None:
        """As uvicorn's keep-alive clock, with one timer for many requests."""
        self._idle_since = self.loop.time()
        if self._idle is None:
            self._idle = self.loop.call_later(self.timeout_keep_alive, self._idled)

    def _idled(self) -> None:
        self._idle = None
        if not self._between_requests():
            return  # the end of the answer sets the clock again
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._idle = self.loop.call_later(left_s, self._idled)
        else:
            self.timeout_keep_alive_handler()

    def hand_over(self, passage: Passage, begun: Begun) -> None:
        """A passage could not answer: its request starts on the ordinary way."""
        if self._taken is None:
            raise RuntimeError("there is no request to hand over")
        locate(self)
        cycle = cycle_of(self, *self._taken, passage, begun)
        if self.cycle is passage:  # type: ignore[comparison-overlap]
            self.cycle = cycle
        self._passage = None

        async def ordinary(*asgi: Any) -> None:
            try:
                await self.app(*asgi)
            finally:
                begun.ticket.close()  # it may have been refused before anybody took the place over

        self._start_asgi_task(cycle, ordinary)

    # ------------------------------------------------------------ refusing

    def _too_large(self) -> None:
        what = f"The head of the request is larger than {MAX_HEAD_BYTES:,} bytes."
        self._refuse(HeadTooLarge(what, hint="Send fewer or shorter headers."))

    def _refuse(self, error: GatewayError) -> None:
        """Answer without the application, which never sees this request, and close."""
        self._refused = True
        if self.cycle is None or self.cycle.response_complete:
            body = to_json(error_body(error, new_request_id()))
            head = [
                b"content-type: application/json",
                b"content-length: %d" % len(body),
                b"connection: close",
            ]
            self.transport.write(STATUS_LINE[error.status] + b"\r\n".join([*head, b"", body]))
        logger.info("request refused with %d: %s", error.status, error.message)
        self.transport.close()
