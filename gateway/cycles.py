"""Requests as uvicorn has them, where it has them otherwise: given up by the fast path, or of HTTP/1.0."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, get_remote_addr

from gateway.fastpath.heads import Known
from gateway.fastpath.passage import Passage
from gateway.tickets import Begun


class UntilTheEnd(RequestResponseCycle):
    """The answer to a client of HTTP/1.0, which may not know chunks (RFC 9112, 6.1).

    Where its length is not known, the end of the connection is the end of the answer.
    """

    _endless = False

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            self._endless = b"content-length" not in names
            if self._endless:
                self.chunked_encoding, self.keep_alive = False, False
        elif self._endless:
            # uvicorn counts down to the end of a length that is known.
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


def locate(connection: HttpToolsProtocol) -> None:
    """Ask for the addresses of both ends, if nobody has. Few requests are told them, and to ask costs more
    than all else that a new connection takes."""
    if connection.server is not None:
        return
    with contextlib.suppress(OSError):  # it is lost already
        connection.client = get_remote_addr(connection.transport)
        connection.server = get_local_addr(connection.transport)


def cycle_of(
    connection: HttpToolsProtocol, known: Known, body: bytes, passage: Passage, begun: Begun
) -> RequestResponseCycle:
    """The request with this head and ``body``, which is whole. Its handler finds ``begun`` in its state."""
    cycle = RequestResponseCycle(
        scope=_scope(connection, known, {"begun": begun, **passage.identity()}),  # type: ignore[arg-type]  # a TypedDict of uvicorn's
        transport=connection.transport,
        flow=connection.flow,
        logger=connection.logger,
        access_logger=connection.access_logger,
        access_log=connection.access_log,
        default_headers=connection.server_state.default_headers,
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=passage.keep_alive,
        on_response=connection.on_response_complete,
    )
    cycle.body, cycle.more_body = bytearray(body), False
    cycle.message_event.set()
    return cycle


def _scope(connection: HttpToolsProtocol, known: Known, state: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": connection.asgi_version, "spec_version": "2.3"},
        "http_version": "1.1",
        "server": connection.server,
        "client": connection.client,
        "scheme": connection.scheme,
        "root_path": connection.root_path,
        **known.request(),
        "state": {**connection.app_state, **state},
    }
