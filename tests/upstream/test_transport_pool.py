"""Connections of our own transport: who gets one, how long it is kept, and that none is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from wire_server import WireServer, answering, lose, lose_all, request_of, serving

from gateway.upstream.connection import Connection
from gateway.upstream.pool import Origin
from gateway.upstream.transport import EngineHttp, FastTransport, Incoming

OK = b"HTTP/1.1 200 OK\r\n"
WHOLE = OK + b"content-length: 5\r\n\r\nhello"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n3;x\r\nhel\r\n2\r\nlo\r\n0\r\nt: 1\r\n\r\n"


@asynccontextmanager
async def engine_http(**options: object) -> AsyncIterator[EngineHttp]:
    async with EngineHttp(FastTransport(**options)) as http, asyncio.timeout(20):  # type: ignore[arg-type]
        yield http


async def opened(http: EngineHttp, server: WireServer, connect_s: float | None = 5) -> Incoming:
    return await http.open("POST", server.url, "/generate", b"{}", connect_s)


async def body_of(http: EngineHttp, server: WireServer) -> bytes:
    response = await opened(http, server)
    try:
        body = b""
        while part := await response.read():
            body += part
        return body
    finally:
        await response.aclose()


def busy(http: EngineHttp) -> int:
    """Connections that are neither idle nor gone."""
    pool = http.pool
    return len(pool._all) - sum(map(len, pool._idle.values())) + pool._making


@pytest.mark.parametrize("steps", range(40))
async def test_a_cancelled_exchange_leaves_no_connection_behind(steps: int) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await request_of(reader):
            for part in (CHUNKED[at : at + 9] for at in range(0, len(CHUNKED), 9)):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)

    async with serving(play) as server, engine_http() as http:
        task = asyncio.create_task(body_of(http, server))
        for _ in range(steps):
            await asyncio.sleep(0)
        was_done = task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert was_done or task.cancelled()
        assert await body_of(http, server) == b"hello"
        kept = sum(map(len, http.pool._idle.values()))
        await server.until_open(kept)
        assert busy(http) == 0


@pytest.mark.parametrize("parts", [0, 1])
async def test_an_answer_that_is_left_closes_its_connection_at_once(parts: int) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(OK + b"content-length: 500\r\n\r\nhello")
        await reader.read()

    async with serving(play) as server, engine_http() as http:
        response = await opened(http, server)
        for _ in range(parts):
            assert await response.read() == b"hello"
        await response.aclose()
        await server.until_open(0)


async def test_closing_the_client_closes_what_is_under_way() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await reader.read()

    async with serving(mute) as server:
        async with engine_http() as http:
            waiting = asyncio.create_task(opened(http, server))
            await server.until_open(1)
        with pytest.raises(httpx.ReadError):
            await waiting
        await server.until_open(0)
        with pytest.raises(RuntimeError):
            await http.get(server.url)
        with pytest.raises(httpx.ConnectError, match="closed"):
            await opened(http, server)


async def test_a_connection_is_kept_for_a_while_and_then_closed() -> None:
    async with serving(answering(WHOLE)) as server, engine_http(idle_s=0.2) as http:
        for _ in range(3):
            assert await body_of(http, server) == b"hello"
        assert server.accepted == 1
        await server.until_open(0)
        assert await body_of(http, server) == b"hello"
        assert server.accepted == 2


async def test_a_kept_connection_that_the_engine_closes_as_it_is_taken_is_replaced() -> None:
    asked = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request on each connection, and hangs up on the second without a word."""
        nonlocal asked
        if await request_of(reader):
            asked += 1
            writer.write(WHOLE)
            await writer.drain()
            if await request_of(reader):
                asked += 1

    async with serving(play) as server, engine_http() as http:
        for _ in range(3):
            assert await body_of(http, server) == b"hello"
        assert (server.accepted, asked) == (3, 5)


async def test_a_new_connection_that_is_closed_without_an_answer_is_an_error_at_once() -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)

    async with serving(play) as server, engine_http() as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await opened(http, server)
        assert server.accepted == 1


async def test_a_connection_that_is_lost_as_it_is_made_is_no_longer_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the end of the client would wait for it for ever, and with a limit its place were lost."""
    async with serving(answering(WHOLE)) as server, engine_http(max_connections=1) as http:
        lose_all(monkeypatch)
        for _ in range(2):
            with pytest.raises(httpx.ConnectError):
                await opened(http, server)
        assert busy(http) == 0
        monkeypatch.undo()
        assert await body_of(http, server) == b"hello"


async def test_a_kept_connection_that_is_lost_as_it_is_taken_says_so_when_it_is_used() -> None:
    """By what whoever has it knows that another one may do."""
    async with serving(answering(WHOLE)) as server, engine_http() as http:
        assert await body_of(http, server) == b"hello"
        (origin,) = http.pool._idle
        connection = http.pool.spare(origin)
        assert connection is not None
        await lose(connection)
        connection.send(b"GET / HTTP/1.1\r\n\r\n")
        assert isinstance(connection.failure, httpx.ConnectError)
        assert connection.reused
        assert connection.silent
        http.pool.give_back(connection)


async def test_an_answer_that_breaks_off_on_a_kept_connection_is_not_asked_for_again() -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await request_of(reader):
            writer.write(WHOLE)
            await writer.drain()
            if await request_of(reader):
                writer.write(OK)
                await writer.drain()

    async with serving(play) as server, engine_http() as http:
        assert await body_of(http, server) == b"hello"
        with pytest.raises(httpx.RemoteProtocolError):
            await opened(http, server)
        assert server.accepted == 1


async def test_many_at_once_have_a_connection_each_and_share_them_afterwards() -> None:
    async with serving(answering(CHUNKED)) as server, engine_http() as http:
        for _ in range(3):
            bodies = await asyncio.gather(*(body_of(http, server) for _ in range(50)))
            assert bodies == [b"hello"] * 50
        assert server.accepted <= 50
        assert busy(http) == 0


async def test_with_a_limit_they_take_turns() -> None:
    async with serving(answering(CHUNKED)) as server, engine_http(max_connections=2) as http:
        bodies = await asyncio.gather(*(body_of(http, server) for _ in range(30)))
        assert bodies == [b"hello"] * 30
        assert server.accepted == 2


async def test_who_waits_for_a_connection_and_leaves_passes_it_on() -> None:
    async with serving(answering(WHOLE)) as server, engine_http(max_connections=1) as http:
        first = await opened(http, server)
        second = asyncio.create_task(body_of(http, server))
        third = asyncio.create_task(body_of(http, server))
        while len(http.pool._waiting) < 2:
            await asyncio.sleep(0)
        assert await first.read() == b"hello"
        await first.aclose()  # calls the second, which is cancelled before it comes
        second.cancel()
        assert await third == b"hello"
        assert (await asyncio.gather(second, return_exceptions=True))[0].__class__ is asyncio.CancelledError


async def test_nobody_waits_for_a_connection_for_longer_than_asked() -> None:
    async with serving(answering(WHOLE)) as server, engine_http(max_connections=1) as http:
        held = await opened(http, server)
        with pytest.raises(httpx.PoolTimeout):
            await opened(http, server, connect_s=0.05)
        assert not http.pool._waiting
        await held.aclose()


async def test_an_idle_connection_gives_way_to_one_that_leads_elsewhere() -> None:
    async with (
        serving(answering(WHOLE)) as one,
        serving(answering(WHOLE)) as other,
        engine_http(max_connections=1) as http,
    ):
        for server in (one, other, one):
            assert await body_of(http, server) == b"hello"
        await other.until_open(0)
        assert (one.accepted, other.accepted) == (2, 1)


async def test_a_connection_that_cannot_be_made_frees_its_place(deaf_url: str) -> None:
    async with serving(answering(WHOLE)) as server, engine_http(max_connections=1) as http:
        for _ in range(2):
            with pytest.raises(httpx.ConnectTimeout):
                await http.open("GET", deaf_url, "/", None, 0.05)
            with pytest.raises(httpx.ConnectError):
                await http.open("GET", "http://127.0.0.1:1", "/", None, 5)
        assert await body_of(http, server) == b"hello"


async def test_a_user_in_the_address_is_sent_as_such() -> None:
    heads: list[bytes] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await request_of(reader))
        writer.write(WHOLE)

    async with serving(play) as server, engine_http() as http:
        address = server.url.replace("http://", "http://ann:p%40ss@")
        response = await http.open("POST", f"{address}/base/", "/generate", b'{"a":1}', 5)
        await response.aclose()
    lines = heads[0].split(b"\r\n")
    assert lines[0] == b"POST /base/generate HTTP/1.1"
    assert b"authorization: Basic YW5uOnBAc3M=" in lines
    assert b"accept-encoding: identity" in lines
    assert f"host: {server.url.removeprefix('http://')}".encode() in [line.lower() for line in lines]
    assert lines[-1] == b'{"a":1}'
    assert b"content-length: 7" in lines


# ---------------------------------------------------------------- fragments


class Wire(asyncio.Transport):
    """The other end of a connection that is fed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Nobody:
    def lost(self, connection: Connection) -> None:
        pass


async def outcome(pieces: list[bytes], *, end: bool = True) -> tuple[int, bytes, str, bool]:
    """Status, body, error, and whether the connection may be kept, after ``pieces`` and an end."""
    connection = Connection(asyncio.get_running_loop(), Nobody(), Origin("h", 1, secure=False))
    wire = Wire()
    connection.connection_made(wire)
    connection.send(b"")
    for piece in pieces:
        if not wire.closed:
            connection.data_received(piece)
    reusable = connection.reusable
    if end and not wire.closed:
        connection.eof_received()
    connection.connection_lost(None)
    body = b""
    try:
        await connection.head()
        while part := await connection.read():
            body += part
    except httpx.TransportError as error:
        return connection.status, body, type(error).__name__, reusable
    return connection.status, body, "", reusable


ANSWERS = [
    WHOLE,
    CHUNKED,
    OK + b"\r\nhello",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nlink: x\r\n\r\n" + CHUNKED,
    b"HTTP/1.1 204 No\r\n\r\n",
    WHOLE + b"junk",
    WHOLE + WHOLE,
    CHUNKED[:-9],
    OK + b"content-length: 9\r\n\r\nhello",
    CHUNKED.replace(b"2\r\n", b"zz\r\n"),
]


@pytest.mark.parametrize("sent", ANSWERS)
async def test_cut_in_two_anywhere_it_is_the_same_answer(sent: bytes) -> None:
    whole = await outcome([sent])
    for cut in range(len(sent)):
        assert await outcome([sent[:cut], sent[cut:]] if cut else [sent]) == whole
    assert await outcome([sent[at : at + 1] for at in range(len(sent))]) == whole


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(some.data())
def test_fragments_of_answers_in_any_order_never_hang_and_never_pass_for_whole(data: some.DataObject) -> None:
    fragments = [one[at : at + 7] for one in ANSWERS for at in range(0, len(one), 7)]
    junk = some.one_of(some.sampled_from(fragments), some.binary(max_size=9))
    begin = data.draw(some.sampled_from(ANSWERS))
    cut = data.draw(some.integers(0, len(begin)))
    pieces = [begin[:cut], *data.draw(some.lists(junk, max_size=6))]
    pieces = [piece for piece in pieces if piece]

    async def run() -> None:
        async with asyncio.timeout(5):
            fed = await outcome(pieces)
            joined = await outcome([b"".join(pieces)] if pieces else [])
        assert fed[:3] == joined[:3]  # how the network cut it changes nothing
        status, _, error, reusable = fed
        assert not (reusable and error)
        assert error or status >= 200

    asyncio.run(run())
