"""Engine kind ``openai``: vLLM, SGLang, llama.cpp's server, Ollama and others with OpenAI's routes.

Prompts go to ``/v1/completions`` as they were rendered, and answers come back as TGI would have given them.
Like TGI, these engines put a begin-of-text token in front of a prompt where the model has one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import httpx

from gateway.errors import EngineError, GatewayError
from gateway.schemas import Clocks, Completed, Conversation, Prompt, Token, TokenSpan
from gateway.upstream import openai_chat, openai_flavours, openai_served
from gateway.upstream.base import Capabilities, is_suspect
from gateway.upstream.bodies import json_body, not_understood, object_of, within
from gateway.upstream.calls import Call
from gateway.upstream.chat_request import Chat
from gateway.upstream.exchange import fetch, open_stream
from gateway.upstream.openai_errors import error_of_answer
from gateway.upstream.openai_request import UNKNOWN_ROOM_TOKENS, Asked, Served
from gateway.upstream.openai_served import NO_SUCH_ROUTE, Place
from gateway.upstream.openai_stream import Reading, details_of
from gateway.wire.pieces import spans_of


class OpenAiEngine:
    """OpenAI's routes over one shared client. Remembers what answers at an address, until that fails."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._served: dict[str, Served] = {}

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
    ) -> AsyncIterator[AsyncIterator[Token | Completed]]:
        asked = Asked.of(prompt, parameters)
        openai_flavours.check(asked.parameters)
        asked.schema()
        with self._forgetting(url):
            call = await self._completion(url, asked, clocks, logprobs=tokens)
            async with (
                open_stream(
                    self._client,
                    call,
                    clocks,
                    lambda answer: error_of_answer(answer, call.address, prompt.text),
                ) as events,
                aclosing(Reading(events, asked, call).all()) as found,
            ):
                first = await anext(found)
                async with aclosing(_wanted(first, found, tokens=tokens)) as pieces:
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
        chat, base = Chat.of(conversation, parameters), Place.of(url).base
        with self._forgetting(url):
            served = await self._who(url, clocks)
            if chat.offers_tools:
                served = await openai_served.with_tools(self._client, Place.of(url), served, clocks)
                self._served[url] = served
            async with openai_chat.stream(
                self._client, base, served, chat, clocks, logprobs=logprobs
            ) as pieces:
                yield pieces

    async def count_chat(
        self, url: str, conversation: Conversation, *, timeout_s: float = 10.0
    ) -> int | None:
        served = await self._who(url, within(timeout_s))
        return await openai_chat.count(self._client, Place.of(url).base, served, conversation, timeout_s)

    def capabilities(self, url: str | None) -> Capabilities:
        served = self._served.get(url or "")
        return {} if served is None else openai_served.capabilities(served)

    async def generate(
        self, url: str, prompt: Prompt, parameters: Mapping[str, object], clocks: Clocks
    ) -> Completed:
        """What these engines cannot stream they cannot do at all: the stream is the way here, too."""
        patient = replace(clocks, first_token_s=clocks.total_s, between_tokens_s=clocks.total_s)
        listed: list[Token] = []
        async with self.stream(url, prompt, parameters, patient) as pieces:
            async for piece in pieces:
                if isinstance(piece, Completed):
                    return replace(piece, details=details_of(listed, piece))
                listed.append(piece)
        raise RuntimeError("a stream ends with its Completed or with an error")

    async def count_tokens(self, url: str, text: str, *, timeout_s: float = 10.0) -> int | None:
        split = await self._split(url, text, within(timeout_s))
        if split is None:
            return None
        count = split.get("count")
        listed = split.get("tokens")
        return count if isinstance(count, int) else len(listed) if isinstance(listed, list) else None

    async def tokenize(self, url: str, text: str, *, timeout_s: float = 10.0) -> tuple[TokenSpan, ...] | None:
        """Only llama.cpp says which text a token is; vLLM and SGLang can count, no more."""
        split = await self._split(url, text, within(timeout_s))
        listed = (split or {}).get("tokens")
        if not isinstance(listed, list) or not all(
            isinstance(one, dict) and "piece" in one for one in listed
        ):
            return None
        try:
            return tuple(TokenSpan(*span) for span in spans_of(text, listed))
        except (KeyError, TypeError, ValueError) as error:
            raise not_understood(_tokenizing(Place.of(url), text, None), error) from error

    async def healthy(self, url: str, timeout_s: float) -> None:
        place = Place.of(url)
        with self._forgetting(url):
            for path in ("/health", openai_served.MODELS):
                call = Call("GET", place.base, path)
                answer = await fetch(self._client, call, within(timeout_s))
                if answer.status == httpx.codes.OK:
                    return
                if answer.status not in NO_SUCH_ROUTE:
                    break
            raise error_of_answer(answer, call.address)

    async def info(self, url: str, timeout_s: float) -> Mapping[str, Any]:
        """The engine's record of the model, and how much it takes under TGI's name for that."""
        self._served.pop(url, None)
        served = await self._who(url, within(timeout_s))
        limits = {"max_best_of": 1}
        if served.context_tokens:
            limits["max_total_tokens"] = served.context_tokens
        return {**served.card, "engine": served.flavour.name, **limits}

    def forget(self, url: str) -> None:
        self._served.pop(url, None)

    # ---------------------------------------------------------------- on the way

    async def _who(self, url: str, clocks: Clocks) -> Served:
        served = self._served.get(url)
        if served is None:
            served = await openai_served.ask(self._client, Place.of(url), clocks)
            self._served[url] = served
        return served

    async def _completion(self, url: str, asked: Asked, clocks: Clocks, *, logprobs: bool) -> Call:
        served = await self._who(url, clocks)
        openai_flavours.check(asked.parameters, served.flavour)
        room = await self._max_tokens(url, served, asked, clocks)
        body = asked.body(served, max_tokens=room, logprobs=logprobs)
        return Call("POST", Place.of(url).base, "/v1/completions", json_body(body))

    async def _max_tokens(self, url: str, served: Served, asked: Asked, clocks: Clocks) -> int | None:
        """OpenAI's own default is 16 tokens; TGI's is whatever there is room for."""
        if asked.limit is not None or served.flavour.unlimited:
            return asked.limit
        if served.context_tokens is None:
            return UNKNOWN_ROOM_TOKENS
        split = await self._split(url, asked.prompt.text, clocks)
        count = (split or {}).get("count")
        return max(1, served.context_tokens - count) if isinstance(count, int) else UNKNOWN_ROOM_TOKENS

    async def _split(self, url: str, text: str, clocks: Clocks) -> dict[str, Any] | None:
        """What the engine says to ``/tokenize``; None when it has no such route."""
        served = await self._who(url, clocks)
        if not served.flavour.counts:
            return None
        call = _tokenizing(Place.of(url), text, served.model)
        answer = await fetch(self._client, call, clocks)
        if answer.status in NO_SUCH_ROUTE:
            return None
        if answer.status != httpx.codes.OK:
            raise error_of_answer(answer, call.address, text)
        return object_of(answer.body, call)

    @contextmanager
    def _forgetting(self, url: str) -> Iterator[None]:
        """After a failure there may be another program, or another model, when the address answers again."""
        try:
            yield
        except GatewayError as error:
            if is_suspect(error) or isinstance(error, EngineError):
                self._served.pop(url, None)
            raise


def _tokenizing(place: Place, text: str, model: str | None) -> Call:
    # vLLM and SGLang read the first fields, llama.cpp the others. All of them skip what they do not know.
    body: dict[str, object] = {"prompt": text, "add_special_tokens": True}
    body |= {"content": text, "add_special": True, "parse_special": True, "with_pieces": True}
    if model is not None:
        body["model"] = model
    return Call("POST", place.base, "/tokenize", json_body(body))


async def _wanted(
    first: Token | Completed, rest: AsyncIterator[Token | Completed], *, tokens: bool
) -> AsyncGenerator[Token | Completed, None]:
    if tokens or isinstance(first, Completed):
        yield first
    async for piece in rest:
        if tokens or isinstance(piece, Completed):
            yield piece
