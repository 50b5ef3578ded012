"""Engine kind ``tgi``: Text Generation Inference and everything that speaks its native routes."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, get_args

import httpx
from pydantic_core import from_json

from gateway.schemas import (
    Clocks,
    Completed,
    Conversation,
    FinishReason,
    Piece,
    Prompt,
    RawTokens,
    Token,
    TokenSpan,
)
from gateway.upstream import tgi_chat
from gateway.upstream.base import Capabilities, Truncated
from gateway.upstream.bodies import json_body, not_understood, object_of, within
from gateway.upstream.chat_request import Chat
from gateway.upstream.exchange import Answer, Call, DataStream, fetch, open_stream
from gateway.upstream.tgi_errors import error_of_answer, error_of_event

_MAX_STOPS: Final = 4  # TGI's --max-stop-sequences
_REASONS: Final[Mapping[object, FinishReason]] = {reason: reason for reason in get_args(FinishReason)}
# In the text of a token the quotes would be escaped, so this is in every event but the last and errors.
_UNFINISHED: Final = b'"generated_text":null'
_INDEX: Final = b'{"index":'
_TOKEN: Final = b'"token":{"id":'
_NO_ID: Final = b'"id":null'
_LINE_END: Final = re.compile(rb"\n|\xc2\x85|\xe2\x80[\xa8\xa9]")  # as some clients see it


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
        asked = _Asked.of(prompt, parameters)
        call = Call("POST", url, "/generate_stream", asked.body())

        async with open_stream(
            self._client, call, clocks, lambda answer: error_of_answer(answer, call.address, prompt.text)
        ) as events:
            reading = _Reading(events, asked, call, tokens, raw)
            batch = await reading.first()
            async with aclosing(reading.pieces(batch)) as pieces:
                yield pieces

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
        asked = _Asked.of(prompt, parameters)
        call = Call("POST", url, "/generate", asked.body())
        answer = await fetch(self._client, call, clocks)
        if answer.status != httpx.codes.OK:
            raise error_of_answer(answer, call.address, prompt.text)
        try:
            body = object_of(answer.body, call)
            return _collected(body, asked, answer)
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


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request as TGI gets it, and whose each stop string is."""

    inputs: str
    parameters: dict[str, object]
    own_stops: tuple[str, ...]
    family_stops: tuple[str, ...]

    @classmethod
    def of(cls, prompt: Prompt, parameters: Mapping[str, object]) -> _Asked:
        given = {name: value for name, value in parameters.items() if value is not None}
        stop = given.get("stop")
        own = tuple(str(one) for one in stop) if isinstance(stop, list | tuple) else ()
        # TGI refuses more; without its stop string a turn still ends at the model's end token.
        stops = [*own, *(one for one in prompt.stop if one not in own)][: max(_MAX_STOPS, len(own))]
        if stops:
            given["stop"] = stops
        given["details"] = True
        return cls(prompt.text, given, own, prompt.stop)

    def body(self) -> bytes:
        return json_body({"inputs": self.inputs, "parameters": self.parameters})

    def settle(self, text: str, reason: FinishReason, last: str) -> tuple[str, FinishReason]:
        """The text and the reason for who asked: the family's stop string is the end of a turn, not text.

        ``last`` is the text of the last token: TGI leaves special tokens out of the whole text.
        """
        if reason != "stop_sequence" or (self.own_stops and text.endswith(self.own_stops)):
            return text, reason
        for stop in self.family_stops:
            if text.endswith(stop):
                return text.removesuffix(stop), "eos_token"
        return text, "eos_token" if last.endswith(self.family_stops) else reason

    def guess_reason(self, text: str, tokens: int) -> FinishReason:
        """For an engine that gives no details."""
        limit = self.parameters.get("max_new_tokens")
        if isinstance(limit, int) and tokens >= limit:
            return "length"
        return "stop_sequence" if text.endswith((*self.own_stops, *self.family_stops)) else "eos_token"


class _Reading:
    """One stream of TGI's events, read once."""

    def __init__(self, events: DataStream, asked: _Asked, call: Call, wants_tokens: bool, raw: bool) -> None:
        self._events = events
        self._asked = asked
        self._call = call
        self._wants_tokens = wants_tokens
        self._raw = raw and wants_tokens
        self._tokens = 0

    async def first(self) -> list[bytes]:
        """The first data lines; raises what they are if they are an error, so that no token was promised."""
        batch = await self._more()
        if _UNFINISHED not in batch[0]:
            self._event(batch[0])
        return batch

    async def pieces(self, batch: list[bytes]) -> AsyncGenerator[Piece]:
        while True:
            if self._raw and all(map(_passes, batch)):
                self._tokens += len(batch)
                yield RawTokens(b"".join([b"data: %b\n\n" % data for data in batch]), len(batch))
                batch = await self._more()
                continue
            for data in batch:
                if not self._wants_tokens and _UNFINISHED in data:
                    self._tokens += 1
                    continue
                token, completed = self._parsed(data)
                if self._wants_tokens:
                    yield token
                if completed is not None:
                    self._events.finish()
                    yield completed
                    return
            batch = await self._more()

    def _parsed(self, data: bytes) -> tuple[Token, Completed | None]:
        event = self._event(data)
        self._tokens += 1
        try:
            token = _token_of(event)
            return token, self._completed(event, token)
        except (KeyError, TypeError) as error:
            raise not_understood(self._call, error) from error

    async def _more(self) -> list[bytes]:
        batch = await self._events.batch()
        if not batch:
            ended = f"ended after {self._tokens} tokens without a last event"
            raise Truncated(
                f"truncated: the stream of {self._call.address} {ended}",
                hint="The engine may have stopped: look at its log, and send the request again.",
            )
        return batch

    def _event(self, data: bytes) -> dict[str, Any]:
        event = object_of(data, self._call)
        if "error" in event:
            raise error_of_event(event, self._call.address, self._asked.inputs, self._tokens)
        return event

    def _completed(self, event: dict[str, Any], last: Token) -> Completed | None:
        text = event.get("generated_text")
        if text is None:
            return None
        if not isinstance(text, str):
            raise TypeError("generated_text is not a string")
        details = _details(event)
        return _complete(text, details, self._asked, last.text, self._tokens, details.get("input_length"))


def _passes(data: bytes) -> bool:
    """Whether an event is a token in the middle as TGI writes it, on one line that no client ends early."""
    if not data.startswith(_INDEX) or _UNFINISHED not in data or _TOKEN not in data or _NO_ID in data:
        return False
    return (data.isascii() and b"\n" not in data) or _LINE_END.search(data) is None


def _collected(body: dict[str, Any], asked: _Asked, answer: Answer) -> Completed:
    details = _details(body)
    listed = details.get("tokens") or []
    last = str(listed[-1]["text"]) if listed else ""
    prompt_tokens = len(details.get("prefill") or ()) or answer.headers.get("x-prompt-tokens", "")
    if isinstance(prompt_tokens, str):
        prompt_tokens = int(prompt_tokens) if prompt_tokens.isdecimal() else None
    return _complete(body["generated_text"], details, asked, last, len(listed), prompt_tokens)


def _complete(
    text: str, details: dict[str, Any], asked: _Asked, last: str, tokens: int, prompt_tokens: int | None
) -> Completed:
    count = details.get("generated_tokens")
    count = tokens if count is None else count
    said = details.get("finish_reason")
    text, reason = asked.settle(text, _REASONS.get(said) or asked.guess_reason(text, count), last)
    return Completed(text, reason, count, prompt_tokens, details.get("seed"), details or None)


def _details(body: dict[str, Any]) -> dict[str, Any]:
    details = body.get("details")
    return details if isinstance(details, dict) else {}


def _token(token: dict[str, Any]) -> Token:
    text = token["text"]
    if not isinstance(text, str):
        raise TypeError("text of a token is not a string")
    return Token(text, token.get("id"), token.get("logprob"), bool(token.get("special")))


def _token_of(event: dict[str, Any]) -> Token:
    """The token of an event, with what only the event knows of it."""
    token = _token(event["token"])
    top, last = event.get("top_tokens"), event.get("generated_text") is not None
    if top is None and not last:
        return token
    return replace(token, last=last, top=None if top is None else tuple(map(_token, top)))


def _span(token: dict[str, Any]) -> TokenSpan:
    return TokenSpan(token["id"], token["text"], token["start"], token["stop"])


def _tokenizing(url: str, text: str) -> Call:
    return Call("POST", url, "/tokenize", json_body({"inputs": text}))


def _list(data: bytes) -> list[Any] | None:
    """A JSON list; None for anything else."""
    try:
        body = from_json(data)
    except ValueError:
        return None
    return body if isinstance(body, list) else None
