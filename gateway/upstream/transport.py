"""The one HTTP client towards engines, and its two transports: our own, and httpx's.

Our own (``FastTransport``) is what the gateway runs on. Behind ``httpx.AsyncClient`` it is a transport like
any other; ``EngineHttp.open`` goes past httpx's requests and responses, which cost more than the exchange.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Coroutine, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

import httpx

from gateway.upstream.connection import Connection
from gateway.upstream.pool import Origin, Pool
from gateway.upstream.targets import HEADERS, Targets, head_of, origin_of

TransportKind = Literal["fast", "httpx"]

# Below the 5 s after which common servers drop an idle connection, so that none is picked up as it dies.
_IDLE_CONNECTION_S: Final = 4.0
_IDEMPOTENT: Final = frozenset({"GET", "HEAD"})


def open_client(
    *,
    max_connections: int | None = None,
    tls: ssl.SSLContext | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    kind: TransportKind = "fast",
) -> httpx.AsyncClient:
    """A client for every engine, to be closed by whoever opened it.

    Connections are not limited unless asked: admission bounds the requests. Proxies and .netrc of the
    environment are not used (an engine is a neighbour), redirects are not followed, answers are asked
    for uncompressed so that a stream is never held back by a compressor. Engines behind https are checked
    against ``tls``, or the public authorities. ``kind`` chooses whose connections; ``transport`` takes the
    place of both.
    """
    if transport is None and kind == "fast":
        return EngineHttp(FastTransport(max_connections=max_connections, tls=tls))
    limits = httpx.Limits(
        max_connections=max_connections,
        max_keepalive_connections=max_connections,
        keepalive_expiry=_IDLE_CONNECTION_S,
    )
    return httpx.AsyncClient(
        transport=transport or httpx.AsyncHTTPTransport(verify=tls or True, limits=limits, trust_env=False),
        trust_env=False,
        follow_redirects=False,
        headers=HEADERS,
    )


class Incoming:
    """An answer whose head has come. ``aclose`` always: the connection is kept only if the body was whole."""

    __slots__ = ("_connection", "_pool", "raw_headers", "status_code")

    def __init__(self, connection: Connection, pool: Pool) -> None:
        self._connection: Connection | None = connection
        self._pool = pool
        self.status_code = connection.status
        self.raw_headers = connection.headers

    @property
    def headers(self) -> httpx.Headers:
        return httpx.Headers(self.raw_headers)

    def header(self, name: str) -> str:
        """One header, ``name`` in lower case; empty when there is none."""
        return self._open().header(name)

    def read(self) -> Coroutine[Any, Any, bytes]:
        """Block until there is some of the body; empty at its end. Raises httpx.TransportError."""
        return self._open().read()  # not awaited here: a token would pass through one more coroutine

    @property
    def ended(self) -> bool:
        """Whether the rest of the body, if any, is here already."""
        return self._open().ended

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(connection)

    def _open(self) -> Connection:
        if self._connection is None:
            raise httpx.StreamClosed
        return self._connection


class FastTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 over asyncio and httptools, with connections that are kept for ``idle_s`` seconds."""

    def __init__(
        self,
        *,
        max_connections: int | None = None,
        tls: ssl.SSLContext | None = None,
        idle_s: float = _IDLE_CONNECTION_S,
    ) -> None:
        self.pool = Pool(max_connections=max_connections, idle_s=idle_s, tls=tls)

    async def exchange(self, origin: Origin, request: bytes, connect_s: float | None) -> Incoming:
        """Write a whole request and block until the head of its answer is there.

        ``connect_s`` bounds both waits: for a free connection, and for a new one. A kept connection that ends
        without a byte of an answer was being closed as it was taken (llama.cpp's server does so after a
        hundred requests): the request goes to another one. A new connection has no such excuse.
        """
        pool = self.pool
        while True:
            connection = await pool.take(origin, connect_s=connect_s, pool_s=connect_s)
            try:
                connection.send(request)
                await connection.head()
            except httpx.TransportError:
                connection.discard()
                if not connection.ended_as_taken:
                    raise
            except BaseException:
                connection.discard()
                raise
            else:
                return Incoming(connection, pool)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        limits = request.extensions.get("timeout", {})
        origin = origin_of(request.url)
        while True:
            connection = await self.pool.take(
                origin, connect_s=limits.get("connect"), pool_s=limits.get("pool")
            )
            try:
                await _send(connection, request, limits.get("write"))
                await _within(limits.get("read"), connection.head())
            except BaseException as error:
                connection.discard()
                # As in ``exchange``; but whoever comes by httpx may ask for what is not to be done twice.
                ended = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
                again = ended and request.method in _IDEMPOTENT
                if not (again and connection.ended_as_taken):
                    raise
            else:
                break
        incoming = Incoming(connection, self.pool)
        body = _Body(incoming, limits.get("read"))
        extensions = {"http_version": b"HTTP/1.1"}
        return httpx.Response(
            connection.status, headers=connection.headers, stream=body, extensions=extensions
        )

    async def aclose(self) -> None:
        await self.pool.aclose()


class EngineHttp(httpx.AsyncClient):
    """httpx's client over our transport, with a shorter way for those who need none of httpx."""

    def __init__(self, transport: FastTransport) -> None:
        super().__init__(transport=transport, trust_env=False, follow_redirects=False, headers=HEADERS)
        self._fast = transport
        self.pool = transport.pool
        """For those who write requests themselves."""
        self.targets = Targets()

    async def open(
        self,
        method: str,
        base_url: str,
        path: str,
        content: bytes | None,
        connect_s: float | None,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> Incoming:
        """Send JSON, with the headers ``more``, or nothing, and block until the head of the answer is there.

        Raises httpx.TransportError and httpx.InvalidURL.
        """
        origin, request = self.targets.request(method, base_url, path, content, more)
        return await self._fast.exchange(origin, request, connect_s)


async def _send(connection: Connection, request: httpx.Request, write_s: float | None) -> None:
    """The whole request. An answer that comes before its end stops it, and costs the connection."""
    head = head_of(request.method.encode(), request.url.raw_path, request.headers.raw) + b"\r\n"
    headless = request.method == "HEAD"
    if isinstance(request.stream, httpx.ByteStream):
        connection.send(head + await request.aread(), headless=headless)
        return
    chunked = "transfer-encoding" in request.headers
    connection.send(head, headless=headless)
    assert isinstance(request.stream, httpx.AsyncByteStream)  # noqa: S101 - httpx has seen to it
    async for part in request.stream:
        data = b"%x\r\n%b\r\n" % (len(part), part) if chunked else part
        if part and not await _written(connection, data, write_s):
            connection.spoil()
            return
    if chunked and not await _written(connection, b"0\r\n\r\n", write_s):
        connection.spoil()


async def _written(connection: Connection, data: bytes, write_s: float | None) -> bool:
    try:
        async with asyncio.timeout(write_s):
            return await connection.send_more(data)
    except TimeoutError:
        raise httpx.WriteTimeout("the engine does not take the request") from None


async def _within(read_s: float | None, waiting: Any) -> Any:
    try:
        async with asyncio.timeout(read_s):
            return await waiting
    except TimeoutError:
        raise httpx.ReadTimeout(f"nothing came for {read_s} s") from None


class _Body(httpx.AsyncByteStream):
    def __init__(self, incoming: Incoming, read_s: float | None) -> None:
        self._incoming = incoming
        self._read_s = read_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await _within(self._read_s, self._incoming.read()):
            yield chunk

    async def aclose(self) -> None:
        await self._incoming.aclose()
