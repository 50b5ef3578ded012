"""The same request in every dialect."""

from __future__ import annotations

from typing import Any

import httpx
from harness import Event
from pydantic_core import from_json

from gateway.wire.sse import SseComment, SseDecoder

PATHS = {
    "native": "/v1/generate",
    "chat": "/v1/chat/completions",
    "text": "/v1/completions",
    "messages": "/v1/messages",
    "tgi": "/generate",
}
WORDS = "one two three"


def body(dialect: str, name: str, *, stream: bool = False) -> dict[str, Any]:
    turns = [{"role": "user", "content": WORDS}]
    bodies: dict[str, dict[str, Any]] = {
        "native": {"model_id": name, "inputs": WORDS, "parameters": {"max_new_tokens": 5}},
        "chat": {"model": name, "messages": turns, "max_tokens": 5},
        "text": {"model": name, "prompt": WORDS, "max_tokens": 5},
        "messages": {"model": name, "messages": turns, "max_tokens": 5},
        "tgi": {"inputs": WORDS, "parameters": {"max_new_tokens": 5}},
    }
    return bodies[dialect] | ({"stream": True} if stream and dialect != "tgi" else {})


async def ask(
    client: httpx.AsyncClient,
    dialect: str,
    name: str,
    *,
    stream: bool = False,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> httpx.Response:
    path = "/generate_stream" if stream and dialect == "tgi" else PATHS[dialect]
    sent = {"x-gateway-model": name, **(headers or {})} if dialect == "tgi" else headers or {}
    return await client.post(path, json={**body(dialect, name, stream=stream), **more}, headers=sent)


async def streamed(
    client: httpx.AsyncClient, path: str, sent: dict[str, Any], headers: dict[str, str] | None = None
) -> list[Event]:
    """All events and comments of a stream, without the word with which OpenAI's ends."""
    decoder, events = SseDecoder(), []
    async with client.stream("POST", path, json={**sent, "stream": True}, headers=headers) as response:
        assert response.status_code == 200
        async for chunk in response.aiter_raw():
            for found in decoder.feed(chunk):
                if isinstance(found, SseComment):
                    events.append(Event(":", found.text))
                elif found.data not in ("[DONE]", b"[DONE]"):
                    events.append(Event(found.event, from_json(found.data)))
    return events
