"""A connection as the server has it, with the clocks and the limit that uvicorn lacks.

uvicorn ends a connection that idles between two requests. It does not end one on which a request's head never
gets complete, or whose client stops reading; and a head may be as long as it likes.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.api.context import error_body, new_request_id
from gateway.errors import GatewayError, HeadTooLarge, RequestTimeout

logger = logging.getLogger("gateway.connections")

MAX_HEAD_BYTES: Final = 65_536
"""Request line and headers together."""


@dataclass(frozen=True, slots=True)
class Patience:
    """``receive_s``: for the whole head of a request, and for a body that nobody waits for. ``send_s``: for a
    client that takes nothing of what is there for it."""

    receive_s: float
    send_s: float


class Connection(HttpToolsProtocol):
    """uvicorn's own protocol; what is added only watches, and ends the connection.

    A connection of which nothing has come, or only a part of a head, is on the clock. So is the rest of a
    body whose request is answered already. A body that a handler waits for is that handler's business.
    """

    def __init__(self, *arguments: Any, patience: Patience, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._patience = patience
        self._receiving: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None
        self._in_head = False  # a part of one is there
        self._in_body = False
        self._head_bytes = 0
        self._refused = False

    # ------------------------------------------------------------ clocks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_expecting()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._sending is None:
            self._sending = self.loop.call_later(self._patience.send_s, self._not_read)

    def resume_writing(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        if self.flow is not None:
            super().resume_writing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
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
        super().data_received(data)
        if self._in_head and not self._refused:
            # Most heads come in one piece, and cost no clock.
            self._expect()
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._too_large()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._in_body, self._head_bytes = True, False, 0

    def on_headers_complete(self) -> None:
        if self._refused:
            return  # what follows in the same bytes
        self._in_head, self._in_body = False, True
        self._stop_expecting()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._too_large()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        if self._refused:
            return
        if self.cycle.response_complete:
            self._stop_expecting()
        super().on_message_complete()

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
