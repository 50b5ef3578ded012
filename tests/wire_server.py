"""A server that plays bytes, and counts its connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.upstream.connection import Connection

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
DEADLINE_S = 5.0


@dataclass
class WireServer:
    """Plays ``play`` on each connection."""

    play: Play
    url: str = ""
    accepted: int = 0
    open: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._count(1)
        try:
            await self.play(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            await self._count(-1)

    async def _count(self, change: int) -> None:
        async with self.changed:
            self.accepted += change > 0
            self.open += change
            self.changed.notify_all()

    async def until_open(self, count: int) -> None:
        """Return once exactly ``count`` connections are open here."""
        async with asyncio.timeout(DEADLINE_S), self.changed:
            await self.changed.wait_for(lambda: self.open == count)


@asynccontextmanager
async def serving(play: Play, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[WireServer]:
    server = WireServer(play)
    playing: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(server.handle(reader, writer))
        playing.add(task)
        task.add_done_callback(playing.discard)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    server.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    try:
        yield server
    finally:
        listener.close()
        for task in playing:
            task.cancel()
        await asyncio.gather(*playing, return_exceptions=True)


def answering(*pieces: bytes, then: str = "keep") -> Play:
    """Each request is answered with ``pieces``, one write each. ``then``: keep, close, half or reset."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        no_delay(writer)
        while await request_of(reader):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if then == "reset":
                reset(writer)
            if then == "half":
                writer.write_eof()
                await reader.read()
            if then != "keep":
                return

    return play


def in_turn(*plays: Play) -> Play:
    """The first connection gets the first play, and so on; the last one serves all that follow."""
    left = list(plays)

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(reader, writer)

    return play


def no_delay(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def reset(writer: asyncio.StreamWriter) -> None:
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def request_of(reader: asyncio.StreamReader) -> bytes:
    """The next request, head and body; empty once the client has left."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    lines = head.lower().split(b"\r\n")
    length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
    return head + await reader.readexactly(length)


def lose_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on connections are made, and lost before whoever asked for one comes to know of it."""
    loop = asyncio.get_running_loop()
    create = loop.create_connection

    async def lost(*args: Any, **options: Any) -> Any:
        transport, connection = await create(*args, **options)
        await lose(connection)
        return transport, connection

    monkeypatch.setattr(loop, "create_connection", lost, raising=False)


async def lose(connection: Connection) -> None:
    """End it on this side, and see the event loop to the end of it."""
    connection._out().abort()
    while connection._parser is not None:  # until connection_lost
        await asyncio.sleep(0)
