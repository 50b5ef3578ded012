"""Connections to engines: made when there is none to spare, kept while they are fresh, never shared."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import NamedTuple

import httpx

from gateway.upstream.connection import Connection


class Origin(NamedTuple):
    """Where connections lead."""

    host: str
    port: int
    secure: bool


class Pool:
    """Belongs to one event loop. ``idle_s``: how long a connection is kept without use."""

    def __init__(self, *, max_connections: int | None, idle_s: float, tls: ssl.SSLContext | None) -> None:
        self._limit = max_connections
        self._idle_s = idle_s
        self._tls = tls
        # Insertion order: the first of each is the one that has been idle for longest.
        self._idle: dict[Origin, dict[Connection, None]] = {}
        self._all: set[Connection] = set()
        self._making = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Event | None = None

    async def take(self, origin: Origin, *, connect_s: float | None, pool_s: float | None) -> Connection:
        """A connection that carries nothing. To be handed to ``give_back``, always.

        Raises httpx.PoolTimeout, ConnectTimeout and ConnectError.
        """
        connection = self.spare(origin)
        if connection is not None:
            return connection
        if self._limit is not None:
            try:
                async with asyncio.timeout(pool_s):
                    connection = await self._room(origin, self._limit)
            except TimeoutError:
                raise httpx.PoolTimeout("no free connection") from None
            if connection is not None:
                return connection
        self._making += 1
        try:
            return await self._made(origin, connect_s)
        except BaseException:
            self._admit()
            raise
        finally:
            self._making -= 1

    def give_back(self, connection: Connection) -> None:
        """Keep it for the next exchange if nothing is left of the last one; close it at once otherwise."""
        if not connection.busy:
            return
        if self._emptied is not None or not connection.reusable:
            connection.discard()
            return
        connection.busy, connection.reused = False, True
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        origin = connection.origin
        assert isinstance(origin, Origin)  # noqa: S101 - all of ours are made below
        self._idle.setdefault(origin, {})[connection] = None
        if self._sweep is None:
            self._sweep = loop.call_later(self._idle_s, self._swept)
        if self._waiting:
            self._admit()

    def lost(self, connection: Connection) -> None:
        self._all.discard(connection)
        if not connection.busy and isinstance(connection.origin, Origin):
            self._idle.get(connection.origin, {}).pop(connection, None)
        self._admit()
        if self._emptied is not None and not self._all:
            self._emptied.set()

    async def aclose(self) -> None:
        """Close everything, what is under way too. Returns when the last connection is gone."""
        self._emptied = asyncio.Event()
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in [*self._all]:
            connection.discard()
        if self._all:
            await self._emptied.wait()

    def spare(self, origin: Origin) -> Connection | None:
        """A kept connection that carries nothing, if there is one. To be handed to ``give_back``, always."""
        idle = self._idle.get(origin)
        if not idle:
            return None
        fresh = asyncio.get_running_loop().time() - self._idle_s
        while idle:
            # The one that was used last: the others may grow old.
            connection, _ = idle.popitem()
            connection.busy = True
            if connection.idle_since >= fresh and connection.usable:
                return connection
            connection.discard()
        return None

    async def _room(self, origin: Origin, limit: int) -> Connection | None:
        """A spare connection, or None when there is room for a new one."""
        while True:
            connection = self.spare(origin)
            if connection is not None or len(self._all) + self._making < limit:
                return connection
            if self._evict():
                continue
            place = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except BaseException:
                if place.done() and not place.cancelled():
                    self._admit()  # it was called, and will not come
                raise
            finally:
                if place in self._waiting:
                    self._waiting.remove(place)

    def _evict(self) -> bool:
        """Give up the idle connection of another origin; False when there is none."""
        for idle in self._idle.values():
            if idle:
                connection = next(iter(idle))
                del idle[connection]
                connection.busy = True
                self._all.discard(connection)
                connection.discard()
                return True
        return False

    def _admit(self) -> None:
        """Call one of those who wait for room."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return

    async def _made(self, origin: Origin, connect_s: float | None) -> Connection:
        if self._emptied is not None:
            raise httpx.ConnectError("the client has been closed")
        loop = asyncio.get_running_loop()
        tls, name = (self._authorities(), origin.host) if origin.secure else (None, None)
        try:
            async with asyncio.timeout(connect_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, self, origin),
                    origin.host,
                    origin.port,
                    ssl=tls,
                    server_hostname=name,
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection within {connect_s} s") from error
        except (OSError, ValueError) as error:  # a ValueError: a name that no resolver takes
            raise httpx.ConnectError(str(error)) from error
        if not connection.broken:  # it may have been lost before this task came to know that it was made
            self._all.add(connection)
        return connection

    def _authorities(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = httpx.create_ssl_context(trust_env=False)
        return self._tls

    def _swept(self) -> None:
        """Close what has been idle for too long, whether or not anybody asks for a connection again."""
        loop = asyncio.get_running_loop()
        oldest = loop.time()
        for origin, idle in [*self._idle.items()]:
            while idle:
                connection = next(iter(idle))
                if connection.idle_since > loop.time() - self._idle_s:
                    oldest = min(oldest, connection.idle_since)
                    break
                del idle[connection]
                connection.discard()
            if not idle:
                del self._idle[origin]
        due = oldest + self._idle_s
        self._sweep = loop.call_at(due, self._swept) if self._idle else None
