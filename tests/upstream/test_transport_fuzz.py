"""TGI's streams, framed and cut as HTTP allows, and then damaged: the same pieces, or an error of ours."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from wire_server import in_turn, no_delay, request_of, reset, serving

from gateway.errors import GatewayError
from gateway.schemas import Clocks, Completed, Prompt, RawTokens, Token
from gateway.upstream.tgi import TgiEngine
from gateway.upstream.transport import TransportKind, open_client

KINDS = get_args(TransportKind)
PATIENT, HASTY = Clocks(5, 5, 5, 5), Clocks(5, 0.3, 0.3, 5)
QUIET = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
SECOND = "the second answer"
TLS = ssl.create_default_context()

TEXTS = some.one_of(
    some.sampled_from(
        ["a", " fox", "\u2028", "\x85x", "你好", "😀", '"', "\\", "\n\n", "data: ", "\r\n0\r\n\r\n"]
    ),
    some.text(max_size=6),
)


@dataclass(frozen=True)
class Said:
    """What an engine says, and how it looks on the wire."""

    texts: list[str]
    wire: bytes


def event(index: int, text: str, whole: str | None, spaced: bool) -> bytes:
    details = None if whole is None else {"finish_reason": "length", "generated_tokens": index, "seed": None}
    body = {
        "index": index,
        "token": {"id": 7, "text": text, "logprob": -0.5, "special": False},
        "generated_text": whole,
        "details": details,
    }
    return json.dumps(body, ensure_ascii=False, separators=None if spaced else (",", ":")).encode()


def wire_of(texts: list[str]) -> bytes:
    """A plain rendering, for the answer after the one that is looked at."""
    events = (
        event(n, text, "".join(texts) if n == len(texts) else None, False) for n, text in enumerate(texts, 1)
    )
    body = b"".join(b"data:" + one + b"\n\n" for one in events)
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


@some.composite
def answers(draw: some.DrawFn) -> Said:
    """Everything that the framing leaves open is drawn: chunks, their sizes' spelling, extensions, trailers,
    interim answers, names' case, line ends, comments."""
    texts = draw(some.lists(TEXTS, min_size=1, max_size=6))
    end = draw(some.sampled_from([b"\n", b"\r\n"]))
    spaced, whole = draw(some.booleans()), "".join(texts)
    body = b""
    for number, text in enumerate(texts, 1):
        body += draw(some.sampled_from([b"", b":" + end + end, b": wait" + end, b"id: 5" + end]))
        field = draw(some.sampled_from([b"data: ", b"data:"]))
        body += field + event(number, text, whole if number == len(texts) else None, spaced) + end + end
    return Said(texts, draw(_interim()) + draw(_framed(body)))


def _interim() -> some.SearchStrategy[bytes]:
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    return some.sampled_from([b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n", hints])


@some.composite
def _framed(draw: some.DrawFn, body: bytes) -> bytes:
    kind = draw(
        some.sampled_from(
            [b"content-type: text/event-stream", b"Content-Type:text/event-stream; charset=utf-8"]
        )
    )
    more = draw(some.sampled_from([b"", b"x-long: " + b"a" * 20_000 + b"\r\n", b"vary: a\r\nvary: b\r\n"]))
    head = b"HTTP/1.1 200 OK\r\n" + kind + b"\r\n" + more
    if draw(some.booleans()):
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    cuts = sorted(draw(some.sets(some.integers(1, max(1, len(body) - 1)), max_size=5)))
    chunks = b""
    for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        piece = body[begin:end]
        if piece:
            size = draw(some.sampled_from([b"%x", b"%X", b"000%x"])) % len(piece)
            extension = draw(some.sampled_from([b"", b"", b";a", b';name="v;w"']))
            chunks += size + extension + b"\r\n" + piece + b"\r\n"
    trailers = draw(
        some.sampled_from([b"", b"", b"x-sum: 1\r\n", b"content-length: 3\r\ntransfer-encoding: x\r\n"])
    )
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailers + b"\r\n"


@asynccontextmanager
async def between(
    kind: TransportKind, *pieces: bytes, then: str = "keep"
) -> AsyncIterator[tuple[TgiEngine, str]]:
    """An engine whose first answer is ``pieces``, and every later one the second answer, also on another
    connection."""
    first = True

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal first
        no_delay(writer)
        while await request_of(reader):
            if not first:
                writer.write(wire_of([SECOND]))
                continue
            first = False
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

    async with (
        serving(in_turn(play)) as server,
        open_client(kind=kind, tls=TLS, max_connections=1) as http,
        asyncio.timeout(10),
    ):
        yield TgiEngine(http), server.url


async def collected(
    tgi: TgiEngine, url: str, clocks: Clocks, *, raw: bool = False
) -> tuple[list[str], Completed]:
    """The texts of the tokens, whichever way they came, and the end."""
    texts: list[str] = []
    done: Completed | None = None
    async with tgi.stream(url, Prompt("x"), {}, clocks, raw=raw) as pieces:
        async for piece in pieces:
            assert done is None
            if isinstance(piece, Token):
                texts.append(piece.text)
            elif isinstance(piece, RawTokens):
                found = [one for one in piece.events.split(b"\n\n") if one]
                assert len(found) == piece.count
                texts += map(text_of, found)
            else:
                done = piece
    assert done is not None, "a stream without its end is an error"
    return texts, done


def text_of(passed: bytes) -> str:
    """Of an event that passes as it is. Damage inside its JSON passes, too: that is the engine's word."""
    try:
        return str(json.loads(passed[5:])["token"]["text"])
    except (ValueError, LookupError, TypeError):
        return passed.decode("utf-8", "replace")


def cut(data: some.DataObject, wire: bytes) -> list[bytes]:
    cuts = sorted(data.draw(some.sets(some.integers(1, len(wire) - 1), max_size=6), label="cuts"))
    return [wire[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@given(said=answers(), data=some.data())
@QUIET
def test_however_it_is_framed_and_cut_the_pieces_are_the_same(
    kind: TransportKind, raw: bool, said: Said, data: some.DataObject
) -> None:
    async def run() -> None:
        async with between(kind, *cut(data, said.wire)) as (tgi, url):
            texts, done = await collected(tgi, url, PATIENT, raw=raw)
            assert texts == said.texts
            assert done.text == "".join(said.texts)
            assert (await collected(tgi, url, PATIENT))[0] == [SECOND]

    asyncio.run(run())


@some.composite
def damaged(draw: some.DrawFn) -> bytes:
    """A valid answer with something in it lost, doubled, changed or put elsewhere."""
    wire = draw(answers()).wire
    for _ in range(draw(some.integers(1, 3))):
        at, to = sorted((draw(some.integers(0, len(wire))), draw(some.integers(0, len(wire)))))
        how = draw(some.sampled_from(["lost", "doubled", "changed", "moved", "ends", "put in"]))
        if how == "lost":
            wire = wire[:at] + wire[min(to, at + 40) :]
        elif how == "doubled":
            wire = wire[:to] + wire[at:to] + wire[to:]
        elif how == "changed":
            wire = wire[:at] + draw(some.binary(max_size=8)) + wire[at + 4 :]
        elif how == "moved":
            wire = wire[:at] + wire[to:] + wire[at:to]
        elif how == "ends":
            wire = wire[:to]
        else:
            odd = some.sampled_from(
                [b"\r\n", b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"\0", b"ffffffffffffffffff\r\n"]
            )
            wire = wire[:at] + draw(odd) + wire[at:]
    return wire or b"\r\n"


@pytest.mark.parametrize("kind", KINDS)
@given(
    wire=damaged(), then=some.sampled_from(["close", "close", "half", "reset", "keep"]), raw=some.booleans()
)
@QUIET
def test_damaged_it_is_an_error_of_ours_or_an_answer_and_never_anothers(
    kind: TransportKind, wire: bytes, then: str, raw: bool
) -> None:
    async def run() -> None:
        async with between(kind, wire, then=then) as (tgi, url):
            try:
                texts, done = await collected(tgi, url, HASTY, raw=raw)
            except GatewayError:
                pass
            else:
                assert SECOND not in "".join(texts) + done.text
            try:
                texts, done = await collected(tgi, url, HASTY)
            except GatewayError:
                # httpx keeps a connection on which more came than was asked for, and fails over it.
                assert kind == "httpx"
            else:
                assert (texts, done.text) == ([SECOND], SECOND)

    asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
async def test_slow_answer_holds_up_no_other(kind: TransportKind) -> None:
    """Each exchange has a connection of its own: nothing stands at the head of a line."""
    go_on = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        wire = wire_of(["slow", " one"])
        writer.write(wire[:-60])
        await go_on.wait()
        writer.write(wire[-60:])
        await writer.drain()
        await reader.read()

    async def quick(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await request_of(reader):
            writer.write(wire_of(["quick"]))

    async with serving(in_turn(slow, quick)) as server, open_client(kind=kind, tls=TLS) as http:
        tgi = TgiEngine(http)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            first = group.create_task(collected(tgi, server.url, PATIENT))
            while not server.accepted:
                await asyncio.sleep(0)
            for _ in range(3):
                assert (await collected(tgi, server.url, PATIENT))[0] == ["quick"]
            assert not first.done()
            go_on.set()
        assert first.result()[0] == ["slow", " one"]
        assert server.accepted == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("then", ["close", "half", "reset"])
async def test_stream_cut_off_at_any_byte_gives_the_tokens_that_came_and_an_error(
    kind: TransportKind, then: str
) -> None:
    wire = wire_of(["one", " two", " three"])
    body = wire.index(b"\r\n\r\n") + 4
    for at in range(body, len(wire) - 2, 5):
        async with between(kind, wire[:at], then=then) as (tgi, url):
            with pytest.raises(GatewayError):
                await collected(tgi, url, PATIENT)
            assert (await collected(tgi, url, PATIENT))[0] == [SECOND]
