"""The Anthropic dialect: messages, plain and streamed, and how many tokens they are."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from fastapi import Request, Response
from pydantic_core import to_json

from gateway.answers import Answer, Waiting
from gateway.api.anthropic_bodies import ENVELOPE, CountBody, MessagesBody, error_body, request_of
from gateway.api.context import json_response, request_id_of
from gateway.api.receipts import receipt_body, receipt_headers, waiting_comment
from gateway.api.services import services_of
from gateway.api.stops import StopStrings
from gateway.api.streams import EventStream, shutting_down, stream_limit_s, until_left
from gateway.api.tokens import tokens_of
from gateway.errors import EngineError, GatewayError
from gateway.generation import Generation, GenerationRequest, Generations
from gateway.schemas import Token
from gateway.wire.sse import encode_event

StopReason = Literal["end_turn", "max_tokens", "stop_sequence"]

PING: Final = encode_event("ping", b'{"type":"ping"}')


@dataclass(frozen=True, slots=True)
class End:
    """The end of a message."""

    reason: StopReason
    stop_sequence: str | None
    answer: Answer


Piece = Waiting | str | End


# ---------------------------------------------------------------- routes


async def messages(request: Request, body: MessagesBody) -> Response:
    """Anthropic's messages: the conversation goes through the model's own template.

    While the model has to be brought in, a stream says so in comments, and sends pings.
    """
    services = services_of(request)
    spec = services.generations.spec(body.model)
    request.state.log = {"model": spec.id}
    asked = request_of(body, request.state.started)
    pieces = Reading(services.generations, asked, body.stop_sequences).pieces()
    reply = Reply(spec.id, request_id_of(request))
    if not body.stream:
        text, end = await until_left(request, _collected(pieces))
        request.state.log = {"model": spec.id, "tokens": end.answer.completion_tokens}
        headers = receipt_headers(end.answer) | reply.headers
        return json_response(reply.whole(text, end), headers=headers)
    events = _events(reply, pieces)
    head = await until_left(request, anext(events))
    headers = {"x-gateway-model": spec.id} | reply.headers
    return EventStream(head, events, headers, stream_limit_s(spec.timeouts), _error(shutting_down(), reply))


async def count_tokens(request: Request, body: CountBody) -> Response:
    """How many tokens the model would read, counted by its engine, which is waited for when it is away."""
    services = services_of(request)
    prepared = services.generations.prepare(request_of(body, request.state.started))
    request.state.log = {"model": prepared.spec.id}
    tokens = await until_left(request, tokens_of(services, prepared.spec, prepared.prompt.text))
    headers = {"x-gateway-model": prepared.spec.id} | Reply(prepared.spec.id, request_id_of(request)).headers
    return json_response({"input_tokens": len(tokens)}, headers=headers)


# ---------------------------------------------------------------- reading the engine


class Reading:
    """One generation, read as a text without stop strings."""

    def __init__(self, line: Generations, asked: GenerationRequest, own_stops: Sequence[str]) -> None:
        self._line = line
        self._asked = asked
        self._own_stops = own_stops
        self._stops = StopStrings(own_stops)
        self._said: list[str] = []
        self._tokens = 0

    async def pieces(self) -> AsyncGenerator[Piece]:
        """Waiting while there is a wait, texts, one End. What can be refused is raised by the first."""
        generation = await self._line.start(self._asked)
        try:
            prepared = generation.prepared
            defaults = prepared.parameters.get("stop", ())
            self._stops = StopStrings([*self._own_stops, *defaults, *prepared.prompt.stop])
            async with aclosing(generation.events()) as events:
                async for event in events:
                    if isinstance(event, Waiting):
                        yield event
                        continue
                    if text := self._shown(event):
                        yield text
                    if isinstance(event, Answer):
                        yield self._end(event)
                    elif self._stops.found and not event.last:
                        # The engine has run past a stop string inside a token, and would go on.
                        yield self._end(await self._cut(generation))
                        return
        finally:
            await generation.aclose()

    def _shown(self, event: Token | Answer) -> str:
        """What can be shown now."""
        if isinstance(event, Answer):
            # Without a stream the text comes with the answer alone.
            text = ("" if self._asked.stream else self._stops.feed(event.text)) + self._stops.flush()
        else:
            self._tokens += 1
            text = "" if event.special else self._stops.feed(event.text)
        self._said.append(text)
        return text

    def _end(self, answer: Answer) -> End:
        matched = self._stops.matched
        if matched in self._own_stops:
            return End("stop_sequence", matched, answer)
        at_limit = answer.finish_reason == "length" and matched is None
        return End("max_tokens" if at_limit else "end_turn", None, answer)

    async def _cut(self, generation: Generation) -> Answer:
        prompt_tokens = await self._line.count_tokens(generation.spec, generation.prepared.prompt.text)
        return generation.cut("".join(self._said), self._tokens, prompt_tokens)


async def _collected(pieces: AsyncGenerator[Piece]) -> tuple[str, End]:
    """The whole text, and how it ended."""
    said: list[str] = []
    end: End | None = None
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, End):
                end = piece
            elif isinstance(piece, str):
                said.append(piece)
    if end is None:
        raise EngineError("The engine ended its answer without saying that it was complete.")
    return "".join(said), end


# ---------------------------------------------------------------- answering


@dataclass(frozen=True, slots=True)
class Reply:
    """One message: what its body and its events have in common."""

    model_id: str
    request_id: str
    id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")

    @property
    def headers(self) -> dict[str, str]:
        return {} if ENVELOPE.id_header is None else {ENVELOPE.id_header: self.request_id}

    def whole(self, text: str, end: End) -> dict[str, Any]:
        """A whole message. It always has one block: clients read the first one without looking."""
        return self._message([{"type": "text", "text": text}], _ending(end), _usage(end.answer))

    def opening(self) -> bytes:
        """The first events of a stream."""
        nothing_yet: dict[str, str | None] = {"stop_reason": None, "stop_sequence": None}
        message = self._message([], nothing_yet, {"input_tokens": 0, "output_tokens": 0})
        block = {"type": "text", "text": ""}
        return _event("message_start", message=message) + _event(
            "content_block_start", index=0, content_block=block
        )

    def event(self, piece: Piece) -> bytes:
        """The events that ``piece`` becomes."""
        if isinstance(piece, Waiting):
            return waiting_comment(piece) + PING
        if isinstance(piece, str):
            return _event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
        answer = piece.answer
        receipt = receipt_body(answer.receipt)
        return (
            _event("content_block_stop", index=0)
            + _event("message_delta", delta=_ending(piece), usage=_usage(answer), receipt=receipt)
            + _event("message_stop")
        )

    def _message(
        self, content: list[dict[str, str]], ending: dict[str, str | None], usage: dict[str, int]
    ) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model_id,
            "content": content,
            **ending,
            "usage": usage,
        }


async def _events(reply: Reply, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[bytes]:
    """The body of a stream. A failure before its first event is raised; a later one is its last."""
    opening = reply.opening()
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                events, opening = opening + reply.event(piece), b""
                yield events
    except GatewayError as error:
        if opening:
            raise
        yield _error(error, reply)


def _error(error: GatewayError, reply: Reply) -> bytes:
    return encode_event("error", to_json(error_body(error, reply.request_id)))


def _ending(end: End) -> dict[str, str | None]:
    return {"stop_reason": end.reason, "stop_sequence": end.stop_sequence}


def _usage(answer: Answer) -> dict[str, int]:
    """Token counts; 0 where the engine does not say how long the prompt is: clients need a number."""
    return {"input_tokens": answer.prompt_tokens or 0, "output_tokens": answer.completion_tokens}


def _event(name: str, **more: Any) -> bytes:
    return encode_event(name, to_json({"type": name, **more}))
