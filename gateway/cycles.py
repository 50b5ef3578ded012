"""A request that the fast path gave up, as uvicorn has those that it has read itself."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.fastpath.heads import Known
from gateway.fastpath.passage import Passage
from gateway.tickets import Begun


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
