"""What a request knows of its connection."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import uvicorn

from gateway.connections import Connection, Patience

PATIENCE = Patience(receive_s=5, send_s=5, keep_alive_s=5)
ASKED = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def test_each_request_knows_both_ends_though_nobody_asked_when_the_connection_was_made() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    http: Any = partial(Connection, patience=PATIENCE, fast=lambda: None)
    config = uvicorn.Config(app, port=0, http=http, lifespan="off", log_config=None)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    server_at = server.servers[0].sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*server_at)
    client_at = writer.get_extra_info("sockname")
    for _ in range(2):
        writer.write(ASKED)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
    writer.close()
    await server.shutdown()
    assert [(one["client"], one["server"], one["scheme"]) for one in seen] == 2 * [
        (client_at, server_at, "http")
    ]
