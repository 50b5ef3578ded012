from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

import httpx
import pytest

from gateway.errors import GatewayError
from gateway.schemas import Clocks, Completed, Prompt, Token
from gateway.upstream.base import EngineClient
from gateway.upstream.openai import OpenAiEngine
from gateway.upstream.tgi import TgiEngine
from gateway.upstream.transport import TransportKind, open_client

DEADLINE_S = 5.0

CLOCKS = {
    "connect_s": DEADLINE_S,
    "first_token_s": DEADLINE_S,
    "between_tokens_s": DEADLINE_S,
    "total_s": DEADLINE_S,
}
PROMPT = Prompt("<|im_start|>user\nthe secret of the prompt<|im_end|>\n", ("<|im_end|>",))
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

Step = bytes | dict[str, Any] | tuple[Any, ...] | asyncio.Event | str
"""Bytes to send as they are, a body to send as an event, an answer (status, body, content type, more
headers), an event to wait for, or one of STREAM (the head), KEEP-ALIVE, END (of the body), HOLD (until the
client leaves), RESET, CLOSE, PAUSE (0.05 s: the rhythm of an engine, not a wait for something to happen)."""


def as_bytes(step: Step) -> bytes | None:
    """What a step sends; None when it sends nothing."""
    if isinstance(step, bytes):
        return step
    if isinstance(step, dict):
        return chunk(b"data: " + compact(step) + b"\n\n")
    if isinstance(step, tuple):
        return answer(*step)
    named = {"STREAM": STREAM, "END": b"0\r\n\r\n", "KEEP-ALIVE": chunk(b":\n\n")}
    return named.get(step) if isinstance(step, str) else None


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def compact(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def answer(status: str, body: Any = b"", kind: str = "application/json", extra: str = "") -> bytes:
    data = body if isinstance(body, bytes) else compact(body)
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n{extra}\r\n"
    return head.encode() + data


@dataclass
class RawEngine:
    """Plays one list of steps per request; keeps what was asked and whether the client left."""

    scripts: list[list[Step]]
    url: str = ""
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    connections: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._read_request(reader):
                if not await self._play(self.scripts[len(self.requests) - 1], reader, writer):
                    break
        except ConnectionError:
            pass
        finally:
            self.left.set()
            writer.close()

    async def _read_request(self, reader: asyncio.StreamReader) -> bool:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        except asyncio.IncompleteReadError:
            return False
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
        }
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.requests.append((head[0].split()[1], headers, json.loads(body) if body else None))
        self.asked.set()
        return True

    async def _play(
        self, steps: list[Step], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        for step in steps:
            if (data := as_bytes(step)) is not None:
                writer.write(data)
                await writer.drain()
            elif step == "PAUSE":
                await asyncio.wait({asyncio.ensure_future(self.left.wait())}, timeout=0.05)
            elif isinstance(step, asyncio.Event):
                await step.wait()
            elif step == "RESET":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
                return False
            elif step == "HOLD":
                self.held.set()
                await reader.read()
                return False
            else:
                return False
        return True


Serve = Callable[..., Any]


@pytest.fixture
def serve() -> Serve:
    """``async with serve([steps], [steps of the second request] …) as engine``."""

    @asynccontextmanager
    async def start(*scripts: list[Step]) -> AsyncIterator[RawEngine]:
        engine = RawEngine(list(scripts))
        playing: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(engine.handle(reader, writer))
            playing.add(task)
            task.add_done_callback(playing.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        engine.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield engine
        finally:
            server.close()
            for task in playing:
                task.cancel()
            await asyncio.gather(*playing, return_exceptions=True)

    return start


@pytest.fixture(scope="session")
def tls() -> ssl.SSLContext:
    """Reading the authorities takes longer than most tests."""
    return ssl.create_default_context()


@pytest.fixture(params=get_args(TransportKind))
def transport(request: pytest.FixtureRequest) -> TransportKind:
    """Whose connections: everything here holds for both."""
    kind: TransportKind = request.param
    return kind


@pytest.fixture
async def client(tls: ssl.SSLContext, transport: TransportKind) -> AsyncIterator[httpx.AsyncClient]:
    """One connection at most, so that one which is not given back shows in the next request."""
    async with open_client(max_connections=1, tls=tls, kind=transport) as client:
        yield client


@pytest.fixture
def tgi(client: httpx.AsyncClient) -> TgiEngine:
    return TgiEngine(client)


@dataclass(frozen=True)
class Caller:
    """Asks with a prompt and clocks of its own unless told otherwise."""

    tgi: EngineClient

    @staticmethod
    def clocks(limits: Mapping[str, float] | None) -> Clocks:
        return Clocks(**{**CLOCKS, **(limits or {})})

    def stream(
        self,
        url: str,
        parameters: Mapping[str, object] | None = None,
        *,
        prompt: Prompt = PROMPT,
        limits: Mapping[str, float] | None = None,
        tokens: bool = True,
    ) -> AbstractAsyncContextManager[AsyncIterator[Token | Completed]]:
        return self.tgi.stream(url, prompt, parameters or {}, self.clocks(limits), tokens=tokens)

    async def generate(
        self, url: str, parameters: Mapping[str, object], limits: Mapping[str, float] | None = None
    ) -> Completed:
        return await self.tgi.generate(url, PROMPT, parameters, self.clocks(limits))

    async def collect(self, url: str, *args: Any, **more: Any) -> list[Token | Completed]:
        async with self.stream(url, *args, **more) as pieces:
            return [piece async for piece in pieces]

    async def broken(self, url: str, seen: list[Token | Completed], *, tokens: bool) -> GatewayError:
        """The error that reading a stream ends with; what came before it is added to ``seen``."""
        with pytest.raises(GatewayError) as caught:  # noqa: PT012 - the reading is what raises
            async with self.stream(url, tokens=tokens) as pieces:
                async for piece in pieces:
                    seen.append(piece)  # noqa: PERF401 - what came before the error is wanted
        return caught.value

    async def refused(self, url: str, *, limits: Mapping[str, float] | None = None) -> GatewayError:
        """The error that entering a stream raises."""
        stream = self.stream(url, limits=limits)
        with pytest.raises(GatewayError) as caught:
            await stream.__aenter__()
        assert "secret" not in str(caught.value)
        return caught.value


@pytest.fixture
def ask(tgi: TgiEngine) -> Caller:
    return Caller(tgi)


@pytest.fixture
def ask_openai(client: httpx.AsyncClient) -> Caller:
    return Caller(OpenAiEngine(client))


@pytest.fixture
def deaf_url() -> Iterator[str]:
    """An address at which connections are neither accepted nor refused."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for filler in fillers:
            filler.close()
