"""A gateway on a real socket that says what a test tells it to, when the test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import uvicorn
from harness import until
from starlette.types import Receive, Scope, Send

Json = dict[str, Any]


@dataclass(frozen=True)
class Hold:
    """Wait here until the test releases it, or the client leaves."""


@dataclass(frozen=True)
class Cut:
    """Break the connection off."""


@dataclass(frozen=True)
class Refuse:
    """Answer with a status and an error instead of a stream."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


HOLD: Final = Hold()
CUT: Final = Cut()
Step = bytes | Hold | Cut | Refuse


def event(name: str, **data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def token(text: str) -> bytes:
    return event("token", index=1, id=1, text=text, logprob=-0.1)


def done(
    text: str, model_id: str = "smollm2", *, finish_reason: str = "eos_token", **receipt: float
) -> bytes:
    return event(
        "done",
        model_id=model_id,
        generated_text=text,
        finish_reason=finish_reason,
        usage={"prompt_tokens": 5, "completion_tokens": 21, "total_tokens": 26},
        receipt={"queue_ms": 0.1, "load_ms": 0.0, "prefill_ms": 250.0, "decode_ms": 1000.0, **receipt},
        request_id="r1",
    )


def refusal(status: int, **error: Any) -> Refuse:
    return Refuse(status, json.dumps({"error": error}).encode())


def answer(*pieces: str) -> list[Step]:
    return [*(token(piece) for piece in pieces), done("".join(pieces))]


MODELS: Final[list[Json]] = [
    {"id": "smollm2", "state": "ready", "default": True, "aliases": ["small"], "memory_bytes": 150_000_000},
    {"id": "smollm2-q8", "state": "stopped", "default": False, "aliases": ["小模型"], "last_load_s": 4.2},
]
SCENARIOS: Final[list[Json]] = [
    {"id": "general", "description": {"en": "A conversation", "zh": "普通对话"}},
    {"id": "qa", "description": {"en": "Answers a question", "zh": "回答问题"}},
]


@dataclass
class FakeGateway:
    """``bodies``: what was asked. ``left``: how many clients went away before the end."""

    port: int
    models: list[Json] = field(default_factory=lambda: list(MODELS))
    bodies: list[Json] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    left: int = 0
    scripts: deque[list[Step]] = field(default_factory=deque)
    loop: asyncio.AbstractEventLoop | None = None
    releases: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def says(self, *steps: Step) -> None:
        """The next request gets these steps. Without any left, it gets "Fine."."""
        self.scripts.append(list(steps))

    def release(self) -> None:
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.releases.release)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        self.keys.append(headers.get(b"authorization", b"").decode())
        if scope["path"] == "/v1/generate":
            self.bodies.append(json.loads(await _body(receive)))
            await self._generate(receive, send)
        else:
            data = {"/v1/models": self.models, "/v1/scenarios": SCENARIOS}.get(scope["path"])
            await _respond(send, 404 if data is None else 200, json.dumps({"data": data}).encode())

    async def _generate(self, receive: Receive, send: Send) -> None:
        self.loop = asyncio.get_running_loop()
        steps = self.scripts.popleft() if self.scripts else answer("Fine.")
        if isinstance(first := steps[0], Refuse):
            await _respond(send, first.status, first.body, first.headers)
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with _watched(receive) as gone:
            for step in steps:
                if isinstance(step, Cut):
                    return
                if isinstance(step, Hold) and not await self._held(gone):
                    self.left += 1
                    return
                if isinstance(step, bytes):
                    await send({"type": "http.response.body", "body": step, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _held(self, gone: asyncio.Task[None]) -> bool:
        """Whether the client is still there when the test lets go."""
        held = asyncio.create_task(self.releases.acquire())
        await asyncio.wait({held, gone}, return_when=asyncio.FIRST_COMPLETED)
        released = held.done()
        held.cancel()
        return released


@contextlib.asynccontextmanager
async def _watched(receive: Receive) -> AsyncIterator[asyncio.Task[None]]:
    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(watch())
    try:
        yield task
    finally:
        task.cancel()


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def _respond(
    send: Send, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def serving() -> Iterator[FakeGateway]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fake = FakeGateway(listener.getsockname()[1])
        config = uvicorn.Config(fake, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        until(lambda: server.started, "the fake gateway listens")
        yield fake
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()
