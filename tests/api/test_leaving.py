"""A client that closes its connection in the middle of an answer stops the engine, on every dialect."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from harness import Running, model, start_echo, start_gateway, until
from pydantic_core import to_json

TEXT = "word " * 400  # minutes at this engine's pace
MESSAGES = [{"role": "user", "content": TEXT}]
STREAM = {"stream": True}
TOKENS_PER_S = 5

NATIVE = ("/v1/generate", {"inputs": TEXT, "scenario": "raw"})
CHAT = ("/v1/chat/completions", {"messages": MESSAGES})
TEXTS = ("/v1/completions", {"prompt": TEXT})
ANTHROPIC = ("/v1/messages", {"model": "echo", "messages": MESSAGES, "max_tokens": 400})
TGI = {"inputs": TEXT}

ASKED: dict[str, tuple[str, dict[str, Any], int]] = {
    "native": (*NATIVE, 1),
    "native stream": (NATIVE[0], {**NATIVE[1], **STREAM}, 1),
    "chat": (*CHAT, 1),
    "chat stream": (CHAT[0], {**CHAT[1], **STREAM}, 1),
    "chat with two choices": (CHAT[0], {**CHAT[1], "n": 2}, 2),
    "chat stream with two choices": (CHAT[0], {**CHAT[1], **STREAM, "n": 2}, 2),
    "completion": (*TEXTS, 1),
    "completion stream": (TEXTS[0], {**TEXTS[1], **STREAM}, 1),
    "anthropic": (*ANTHROPIC, 1),
    "anthropic that reads for stops": (ANTHROPIC[0], {**ANTHROPIC[1], "stop_sequences": ["nowhere"]}, 1),
    "anthropic stream": (ANTHROPIC[0], {**ANTHROPIC[1], **STREAM}, 1),
    "tgi generate": ("/generate", TGI, 1),
    "tgi generate with details": ("/generate", {**TGI, "parameters": {"details": True}}, 1),
    "tgi generate_stream": ("/generate_stream", TGI, 1),
    "tgi root": ("/", TGI, 1),
    "tgi root stream": ("/", {**TGI, **STREAM}, 1),
    "tgi by path": ("/models/echo/generate_stream", TGI, 1),
}


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Running]]:
    """A slow engine, and a gateway in front of it."""
    folder = tmp_path_factory.mktemp("slow")
    engine = start_echo(folder, tokens_per_s=TOKENS_PER_S)
    running = start_gateway(folder, {"models": [model(engine.url)]})
    yield engine, running
    running.stop()
    engine.stop()


def posted(path: str, body: dict[str, Any]) -> bytes:
    data = to_json(body)
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode() + data


@pytest.mark.parametrize(("path", "body", "generations"), ASKED.values(), ids=ASKED)
def test_client_that_leaves_stops_the_engine(
    slow: tuple[Running, Running], path: str, body: dict[str, Any], generations: int
) -> None:
    engine, running = slow
    dropped = engine.metric("tgi_request_failure")
    answered = engine.metric("tgi_request_success")

    with closing(socket.create_connection(("127.0.0.1", int(running.url.rsplit(":", 1)[1])))) as client:
        client.sendall(posted(path, body))
        until(lambda: engine.metric("tgi_batch_current_size") == generations, "the engine to generate")
        if body.get("stream") or "stream" in path:
            client.settimeout(15)
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
    until(lambda: engine.metric("tgi_batch_current_size") == 0, "the engine to have stopped")

    assert engine.metric("tgi_request_failure") == dropped + generations
    assert engine.metric("tgi_request_success") == answered
    until(lambda: running.get("/v1/models/echo").json()["in_flight"] == 0, "the place to be given back")
