"""Engine kind ``tgi``: Text Generation Inference and everything that speaks its native routes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import httpx
from pydantic_core import from_json

from gateway.schemas import Clocks, Completed, Conversation, Piece, Prompt, Token, TokenSpan
from gateway.upstream import tgi_chat
from gateway.upstream.base import Capabilities
from gateway.upstream.bodies import json_body, not_understood, object_of, within
from gateway.upstream.calls import Call
from gateway.upstream.chat_request import Chat
from gateway.upstream.exchange import Answer, DataStream, fetch, open_stream
from gateway.upstream.tgi_errors import error_of_answer
from gateway.upstream.tgi_stream import STREAM, Form, Reading, complete, details_of
from gateway.wire.json import KEYS_ALONE

_CAPABILITIES: Final[Capabilities] = dict.fromkeys(("grammar", "tools", "tokenise", "logprobs", "seed"), True)
"""TGI has all of it. What only speaks its routes may not: then the registry says so."""


class TgiEngine:
    """TGI's native routes over one shared client; holds nothing of any request."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    @asynccontextmanager
    async def stream(
        self,
        url: str,
        prompt: Prompt,
        parameters: Mapping[str, object],
        clocks: Clocks,
        *,
        tokens: bool = True,
        raw: bool = False,
    ) -> AsyncIterator[AsyncIterator[Piece]]:
        form = Form.of(prompt.stop, parameters)
        call = Call("POST", url, STREAM, form.body(prompt.text))
        reading = Reading(form, prompt.text, call, wants_tokens=tokens, raw=raw)
        async with open_stream(self._client, call, clocks, reading.explain) as events:
            first = await _more(events, reading)
            reading.check(first[0])
            async with aclosing(_pieces(events, reading, first)) as pieces:
                yield pieces

    def form(self, stop: tuple[str, ...], parameters: Mapping[str, object]) -> Form:
        """For requests whose answers are handed on as they come. ``stop``: the strings that end a turn."""
        return Form.of(stop, parameters)

    @asynccontextmanager
    async def chat(
        self,
        url: str,
        conversation: Conversation,
        parameters: Mapping[str, object],
        clocks: Clocks,
        *,
        logprobs: bool = False,
    ) -> AsyncIterator[AsyncIterator[Token | Completed]]:
        chat = Chat.of(conversation, parameters)
        async with tgi_chat.stream(self._client, url, chat, clocks, logprobs=logprobs) as pieces:
            yield pieces

    async def count_chat(
        self, url: str, conversation: Conversation, *, timeout_s: float = 10.0
    ) -> int | None:
        return await tgi_chat.count(self._client, url, conversation, timeout_s)

    def capabilities(self, url: str | None) -> Capabilities:
        return _CAPABILITIES

    async def generate(
        self, url: str, prompt: Prompt, parameters: Mapping[str, object], clocks: Clocks
    ) -> Completed:
        form = Form.of(prompt.stop, parameters)
        call = Call("POST", url, "/generate", form.body(prompt.text))
        answer = await fetch(self._client, call, clocks)
        if answer.status != httpx.codes.OK:
            raise error_of_answer(answer, call.address, prompt.text)
        try:
            body = object_of(answer.body, call)
            return _collected(body, form, answer)
        except (KeyError, TypeError) as error:
            raise not_understood(call, error) from error

    async def count_tokens(self, url: str, text: str, *, timeout_s: float = 10.0) -> int | None:
        listed = await self._listed(_tokenizing(url, text), text, timeout_s)
        return None if listed is None else len(listed)

    async def tokenize(self, url: str, text: str, *, timeout_s: float = 10.0) -> tuple[TokenSpan, ...] | None:
        call = _tokenizing(url, text)
        listed = await self._listed(call, text, timeout_s)
        try:
            return None if listed is None else tuple(_span(token) for token in listed)
        except (KeyError, TypeError) as error:
            raise not_understood(call, error) from error

    async def _listed(self, call: Call, text: str, timeout_s: float) -> list[Any] | None:
        answer = await fetch(self._client, call, within(timeout_s))
        if answer.status in {404, 405, 501}:
            return None
        if answer.status != httpx.codes.OK:
            raise error_of_answer(answer, call.address, text)
        return _list(answer.body)

    async def healthy(self, url: str, timeout_s: float) -> None:
        call = Call("GET", url, "/health")
        answer = await fetch(self._client, call, within(timeout_s))
        if answer.status != httpx.codes.OK:
            raise error_of_answer(answer, call.address)

    async def info(self, url: str, timeout_s: float) -> Mapping[str, Any]:
        call = Call("GET", url, "/info")
        answer = await fetch(self._client, call, within(timeout_s))
        if answer.status != httpx.codes.OK:
            raise error_of_answer(answer, call.address)
        return object_of(answer.body, call)

    def forget(self, url: str) -> None:
        """Nothing is remembered of it."""


async def _pieces(events: DataStream, reading: Reading, batch: list[bytes]) -> AsyncGenerator[Piece]:
    while True:
        for piece in reading.pieces(batch):
            if isinstance(piece, Completed):
                events.finish()
                yield piece
                return
            yield piece
        batch = await _more(events, reading)


async def _more(events: DataStream, reading: Reading) -> list[bytes]:
    batch = await events.batch()
    if not batch:
        raise reading.broke_off()
    return batch


def _collected(body: dict[str, Any], form: Form, answer: Answer) -> Completed:
    details = details_of(body)
    listed = details.get("tokens") or []
    last = str(listed[-1]["text"]) if listed else ""
    prompt_tokens = len(details.get("prefill") or ()) or answer.headers.get("x-prompt-tokens", "")
    if isinstance(prompt_tokens, str):
        prompt_tokens = int(prompt_tokens) if prompt_tokens.isdecimal() else None
    return complete(body["generated_text"], details, form, last, len(listed), prompt_tokens)


def _span(token: dict[str, Any]) -> TokenSpan:
    return TokenSpan(token["id"], token["text"], token["start"], token["stop"])


def _tokenizing(url: str, text: str) -> Call:
    return Call("POST", url, "/tokenize", json_body({"inputs": text}))


def _list(data: bytes) -> list[Any] | None:
    """A JSON list; None for anything else."""
    try:
        body = from_json(data, cache_strings=KEYS_ALONE)
    except ValueError:
        return None
    return body if isinstance(body, list) else None
