"""What engines may send, cut anywhere: the same answer, or the same error, whoever's transport reads it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from wire_server import WireServer, answering, in_turn, no_delay, request_of, serving

from gateway.upstream.transport import TransportKind, open_client

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
WHOLE = OK + b"content-length: 5\r\n\r\nhello"
TLS = Path(__file__).parent / "tls"

FRAMINGS = {
    "content-length": (WHOLE, "keep", b"hello"),
    "empty": (OK + b"content-length: 0\r\n\r\n", "keep", b""),
    "chunked": (CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", "keep", b"hello"),
    "extensions": (CHUNKED + b'2;a=b;c="d"\r\nhe\r\n3;x\r\nllo\r\n0;last\r\n\r\n', "keep", b"hello"),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nx-sum: 1\r\ny: 2\r\n\r\n", "keep", b"hello"),
    "upper case": (
        OK + b"TRANSFER-ENCODING: Chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
        "keep",
        b"0123456789",
    ),
    "continue": (b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE, "keep", b"hello"),
    "early hints": (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + WHOLE, "keep", b"hello"),
    "until the end": (OK + b"\r\nhello", "close", b"hello"),
    "until the half-close": (OK + b"\r\nhello", "half", b"hello"),
    "http/1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", "close", b"hello"),
    "connection close": (OK + b"connection: close\r\ncontent-length: 5\r\n\r\nhello", "keep", b"hello"),
    "half-close after the end": (WHOLE, "half", b"hello"),
}
KEPT = (
    "content-length",
    "empty",
    "chunked",
    "extensions",
    "trailers",
    "upper case",
    "continue",
    "early hints",
)


@asynccontextmanager
async def between(
    transport: TransportKind, play: object, **options: object
) -> AsyncIterator[tuple[httpx.AsyncClient, WireServer]]:
    """A client, and the server that it asks."""
    async with (
        serving(play) as server,  # type: ignore[arg-type]
        open_client(kind=transport, **options) as http,  # type: ignore[arg-type]
        asyncio.timeout(10),
    ):
        yield http, server


async def asked(http: httpx.AsyncClient, server: WireServer, method: str = "GET") -> tuple[int, bytes]:
    response = await http.request(method, server.url)
    return response.status_code, response.content


@pytest.mark.parametrize("name", FRAMINGS)
async def test_every_framing_is_read_in_one_piece_and_byte_by_byte(
    transport: TransportKind, name: str
) -> None:
    sent, then, body = FRAMINGS[name]
    for pieces in ([sent], [sent[at : at + 1] for at in range(len(sent))]):
        async with between(transport, answering(*pieces, then=then)) as (http, server):
            assert await asked(http, server) == (200, body)
            assert await asked(http, server) == (200, body)
            assert server.accepted == (1 if name in KEPT else 2)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_statuses_without_a_body_have_none_whatever_their_headers_say(
    transport: TransportKind, status: bytes
) -> None:
    extra = b"content-length: 5\r\n" if status.startswith(b"304") else b""
    async with between(transport, answering(b"HTTP/1.1 %b\r\n%b\r\n" % (status, extra))) as (http, server):
        for _ in range(2):
            assert await asked(http, server) == (int(status[:3]), b"")
        assert server.accepted == 1


async def test_the_answer_to_head_ends_with_its_headers(transport: TransportKind) -> None:
    async with between(transport, answering(OK + b"content-length: 5\r\n\r\n")) as (http, server):
        for _ in range(2):
            assert await asked(http, server, "HEAD") == (200, b"")


@pytest.mark.parametrize("then", ["close", "half", "reset"])
@pytest.mark.parametrize("cut", [0, 5, 20, 40, 47, 50, 57])
async def test_an_answer_that_ends_too_early_is_an_error(
    transport: TransportKind, then: str, cut: int
) -> None:
    sent = CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"
    async with between(transport, answering(sent[:cut], then=then)) as (http, server):
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await asked(http, server)


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        OK + b"content-length: five\r\n\r\nhello",
        OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        OK + b"no colon\r\n\r\n",
        CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"5\r\nhelloTOOLONG\r\n0\r\n\r\n",
        OK + b"x: " + b"a" * 1_000_000 + b"\r\ncontent-length: 0\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_a_protocol_error(transport: TransportKind, sent: bytes) -> None:
    async with between(transport, answering(sent, then="half")) as (http, server):
        with pytest.raises(httpx.RemoteProtocolError):
            await asked(http, server)


@pytest.mark.parametrize(
    "endless",
    [
        (OK, b"x: 1\r\n"),
        (OK + b"x: ", b"a" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (CHUNKED + b"5;", b"a" * 1000),
        (CHUNKED + b"5\r\nhello\r\n0\r\n", b"x: 1\r\n"),
    ],
    ids=["headers", "one header", "interim answers", "an extension", "trailers"],
)
async def test_framing_without_an_end_is_an_error_before_it_fills_the_memory(
    endless: tuple[bytes, bytes],
) -> None:
    sent = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await request_of(reader)
        writer.write(endless[0])
        while not writer.is_closing():
            writer.write(endless[1] * 10)
            sent += len(endless[1]) * 10
            await writer.drain()

    async with between("fast", play) as (http, server):
        with pytest.raises(httpx.RemoteProtocolError):
            await asked(http, server)
        await server.until_open(0)
    assert sent < 20_000_000  # what the buffers of the system hold comes on top of our own 256 KiB


async def test_large_headers_are_taken(transport: TransportKind) -> None:
    sent = OK + b"x: " + b"a" * 60_000 + b"\r\ncontent-length: 5\r\n\r\nhello"
    async with between(transport, answering(sent)) as (http, server):
        assert await asked(http, server) == (200, b"hello")


@pytest.mark.parametrize("junk", [WHOLE, b"junk", b"HTTP/1.1 500 No\r\n\r\n"])
async def test_what_follows_an_answer_unasked_is_never_taken_for_the_next_one(junk: bytes) -> None:
    # httpx keeps the connection, and fails the next request over it.
    async with between("fast", in_turn(answering(WHOLE + junk), answering(WHOLE))) as (http, server):
        assert await asked(http, server) == (200, b"hello")
        assert await asked(http, server) == (200, b"hello")
        assert server.accepted == 2


async def test_bytes_on_a_connection_that_asked_nothing_spoil_it(transport: TransportKind) -> None:
    said = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(WHOLE)
        await said.wait()
        writer.write(WHOLE.replace(b"hello", b"wrong"))
        await writer.drain()
        await reader.read()

    async with between(transport, in_turn(play, answering(WHOLE))) as (http, server):
        assert await asked(http, server) == (200, b"hello")
        said.set()
        if transport == "fast":
            await server.until_open(0)
        else:
            await asyncio.sleep(0.05)
        assert await asked(http, server) == (200, b"hello")
        assert server.accepted == 2


async def test_a_connection_that_died_while_idle_is_not_used(transport: TransportKind) -> None:
    requests = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await request_of(reader)
        requests += 1
        writer.write(WHOLE)

    async with between(transport, play) as (http, server):
        for count in range(1, 4):
            response = await http.post(server.url, json={})
            assert response.content == b"hello"
            await server.until_open(0)
            assert (requests, server.accepted) == (count, count)


async def test_a_post_that_was_sent_is_never_sent_again(transport: TransportKind) -> None:
    requests = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await request_of(reader)
        requests += 1
        writer.write(WHOLE)
        await request_of(reader)
        requests += 1

    async with between(transport, play) as (http, server):
        assert (await http.post(server.url, json={})).content == b"hello"
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post(server.url, json={})
        assert requests == 2


async def test_an_answer_before_the_end_of_the_request_stops_the_request() -> None:
    # httpx sends all of it first.
    sent = 0
    answered = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for number in range(1000):
            if number == 3:
                await answered.wait()
            sent += 1
            await asyncio.sleep(0)  # as a body that comes from somewhere does
            yield b"x" * 1000

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        answered.set()
        await reader.read()

    async with between("fast", play) as (http, server):
        assert (await http.post(server.url, content=body())).status_code == 413
        await server.until_open(0)
    assert sent < 1000


async def test_a_streamed_request_arrives_whole(transport: TransportKind) -> None:
    async def body() -> AsyncIterator[bytes]:
        for part in (b"one", b"", b"two"):
            yield part

    got: list[bytes] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b"\r\n0\r\n\r\n"))
        writer.write(WHOLE)

    async with between(transport, play) as (http, server):
        assert (await http.post(server.url, content=body())).content == b"hello"
    assert got[0].endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_a_body_that_nobody_reads_stays_at_the_engine(transport: TransportKind) -> None:
    total, part = 64 * 2**20, b"x" * 65536
    sent = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await request_of(reader)
        writer.write(OK + b"content-length: %d\r\n\r\n" % total)
        while sent < total:
            writer.write(part)
            sent += len(part)
            await writer.drain()

    async with between(transport, play) as (http, server):
        async with http.stream("GET", server.url) as response:
            before = -1
            while before != sent:  # until nothing moves any more
                before = sent
                await asyncio.sleep(0.05)
            assert sent < 32 * 2**20
            read = 0
            async for chunk in response.aiter_raw():
                read += len(chunk)
        assert read == total


async def test_an_engine_behind_tls_is_asked_and_checked(transport: TransportKind) -> None:
    own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    own.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
    trusting, doubting = ssl.create_default_context(), ssl.create_default_context()
    trusting.load_verify_locations(TLS / "certificate.pem")
    async with serving(answering(WHOLE), tls=own) as server:
        async with open_client(kind=transport, tls=trusting) as http:
            for _ in range(2):
                assert await asked(http, server) == (200, b"hello")
            assert server.accepted == 1
            other_name = server.url.replace("localhost", "127.0.0.1")
            with pytest.raises(httpx.ConnectError):
                await http.get(other_name)
        async with open_client(kind=transport, tls=doubting) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get(server.url)


async def test_clocks_of_httpx_are_kept(transport: TransportKind) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        no_delay(writer)
        request = await request_of(reader)
        if b"/head" in request:
            writer.write(OK + b"content-length: 5\r\n\r\n")
        await reader.read()

    async with between(transport, mute) as (http, server):
        for path in ("/", "/head"):
            with pytest.raises(httpx.ReadTimeout):
                await http.get(server.url + path, timeout=0.1)
        await server.until_open(0)


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb"])
async def test_a_line_end_in_a_header_is_not_sent(transport: TransportKind, value: str) -> None:
    async with between(transport, answering(WHOLE)) as (http, server):
        with pytest.raises(httpx.LocalProtocolError):
            await http.get(server.url, headers={"x": value})
