"""The Anthropic dialect: messages, plain and streamed, and how many tokens they are."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import field, replace
from typing import Any, Final, Literal

from fastapi import Request, Response
from pydantic_core import from_json, to_json

from gateway.answers import Answer, Waiting
from gateway.api.anthropic_bodies import ENVELOPE, CountBody, MessagesBody, error_body, request_of
from gateway.api.asking import asked_of, note_answer, who_answers
from gateway.api.context import begun_for, json_response, request_id_of
from gateway.api.reading import Ended, Reading, Said
from gateway.api.receipts import (
    origin_body,
    origin_headers,
    receipt_body,
    receipt_headers,
    waiting_comment,
)
from gateway.api.services import services_of
from gateway.api.streams import EventStream, shutting_down, stream_limit_s, until_left
from gateway.api.tokens import count_of
from gateway.errors import EngineError, GatewayError
from gateway.records import record
from gateway.schemas import ToolCall, ToolCallDelta
from gateway.wire.sse import encode_event

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]

PING: Final = encode_event("ping", b'{"type":"ping"}')
_HERE: Final = "\0"
"""Stands for a text where an event is made that others are cut after."""


Piece = Waiting | Said | Ended


# ---------------------------------------------------------------- routes


async def messages(request: Request, body: MessagesBody) -> Response:
    """Anthropic's messages: the conversation goes through the model's own template.

    While the model has to be brought in, a stream says so in comments, and sends pings.
    """
    services = services_of(request)
    who = who_answers(request, asked_of(request, body.model, metadata=body.metadata))
    asked = replace(request_of(body, request.state.started), who=who, begun=begun_for(request))
    reading = Reading(services.generations, asked, own_stops=body.stop_sequences)
    reply = Reply(request_id_of(request), body.stop_sequences)
    if not body.stream:
        text, end = await until_left(request, _collected(reading.pieces()))
        note_answer(request, end.answer)
        headers = receipt_headers(end.answer) | reply.headers
        return json_response(reply.whole(text, end), headers=headers)
    events = _events(request, Stream(reply, speaks_first=asked.conversation is None), reading)
    head = await until_left(request, anext(events))
    answering = reading.who or who
    headers = origin_headers(answering.spec.id, answering.origin) | reply.headers
    limit_s = stream_limit_s(who.spec.timeouts)
    return EventStream(head, events, headers, limit_s, error_event(shutting_down(), reply))


async def count_tokens(request: Request, body: CountBody) -> Response:
    """How many tokens the model would read, counted by its engine, which is waited for when it is away."""
    services = services_of(request)
    who = services.generations.routing.peek(asked_of(request, body.model, metadata=body.metadata))
    prepared = services.generations.prepare(replace(request_of(body, request.state.started), who=who))
    request.state.log = {"model": prepared.spec.id}
    count = await until_left(request, count_of(services, prepared.spec, prepared.prompt))
    headers = {"x-gateway-model": prepared.spec.id} | Reply(request_id_of(request)).headers
    return json_response({"input_tokens": count}, headers=headers)


async def _collected(pieces: AsyncGenerator[Piece]) -> tuple[str, Ended]:
    async with aclosing(pieces):
        return collected([piece async for piece in pieces])


def collected(pieces: Iterable[Piece]) -> tuple[str, Ended]:
    """The whole text, and how it ended."""
    said: list[str] = []
    end: Ended | None = None
    for piece in pieces:
        if isinstance(piece, Ended):
            end = piece
        elif isinstance(piece, Said):
            said.append(piece.text)
    if end is None:
        raise EngineError("The engine ended its answer without saying that it was complete.")
    return "".join(said), end


# ---------------------------------------------------------------- answering


@record
class Reply:
    """One message: what its body and its events have in common."""

    request_id: str
    own_stops: tuple[str, ...] = ()
    id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")

    @property
    def headers(self) -> dict[str, str]:
        return {} if ENVELOPE.id_header is None else {ENVELOPE.id_header: self.request_id}

    def whole(self, text: str, end: Ended) -> dict[str, Any]:
        """A whole message. There is always one block: clients read the first one without looking."""
        calls = [_use(call) for call in end.answer.tool_calls]
        said = [{"type": "text", "text": text}] if text or not calls else []
        answer = end.answer
        message = self.message(answer.model_id, [*said, *calls], self.ending(end), _usage(answer))
        return message | origin_body(answer.origin)

    def ending(self, end: Ended) -> dict[str, str | None]:
        """Why it ended."""
        if end.stop in self.own_stops:
            return {"stop_reason": "stop_sequence", "stop_sequence": end.stop}
        at_limit: StopReason = "max_tokens" if end.at_limit else "end_turn"
        return {"stop_reason": "tool_use" if end.calls_tools else at_limit, "stop_sequence": None}

    def message(
        self,
        model_id: str,
        content: list[dict[str, Any]],
        ending: dict[str, str | None],
        usage: dict[str, int],
    ) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": model_id,
            "content": content,
            **ending,
            "usage": usage,
        }


class Stream:
    """The pieces of a message as events, with their blocks opened and closed.

    ``speaks_first`` opens a block of text at once: without tools there is nothing else.
    """

    def __init__(self, reply: Reply, *, speaks_first: bool) -> None:
        self.reply = reply
        self._speaks_first = speaks_first
        self._begun = False
        self._blocks = 0
        self._open: Literal["text", "tool_use"] | None = None
        self._frame: tuple[bytes, bytes] | None = None  # around a text of the block that is open

    def _opening(self, model_id: str) -> bytes:
        """The first events of a stream; nothing once they were said."""
        if self._begun:
            return b""
        self._begun = True
        nothing_yet: dict[str, str | None] = {"stop_reason": None, "stop_sequence": None}
        message = self.reply.message(model_id, [], nothing_yet, {"input_tokens": 0, "output_tokens": 0})
        return _event("message_start", message=message) + (self._text_block() if self._speaks_first else b"")

    def event(self, model_id: str, piece: Piece) -> bytes:
        """The events that ``piece`` becomes, with the first ones of all in front."""
        if isinstance(piece, Said) and piece.call is None and piece.text:
            return self.said(model_id, to_json(piece.text))
        return self._opening(model_id) + self._other(piece)

    def said(self, model_id: str, text: bytes) -> bytes:
        """The same of more text, which is a string of JSON already. All around it is made once."""
        if self._frame is not None:
            return b"%b%b%b" % (self._frame[0], text, self._frame[1])
        opened = self._opening(model_id) + self._text_block()
        before, _, behind = self._delta({"type": "text_delta", "text": _HERE}).rpartition(to_json(_HERE))
        self._frame = before, behind
        return opened + before + text + behind

    def _other(self, piece: Piece) -> bytes:
        if isinstance(piece, Waiting):
            return waiting_comment(piece) + PING
        if isinstance(piece, Ended):
            return self._end(piece)
        return b"" if piece.call is None else self._call(piece.call)

    def _end(self, end: Ended) -> bytes:
        answer, ending = end.answer, self.reply.ending(end)
        how = {**origin_body(answer.origin), "receipt": receipt_body(answer.receipt)}
        nothing_said = self._text_block() if not self._blocks else b""
        return (
            nothing_said
            + self._closed()
            + _event("message_delta", delta=ending, usage=_usage(answer), **how)
            + _event("message_stop")
        )

    def _call(self, call: ToolCallDelta) -> bytes:
        begun = b""
        if call.id is not None:
            use: dict[str, Any] = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            begun = self._begin("tool_use", use)
        return begun + self._delta({"type": "input_json_delta", "partial_json": call.arguments})

    def _text_block(self) -> bytes:
        return b"" if self._open == "text" else self._begin("text", {"type": "text", "text": ""})

    def _begin(self, kind: Literal["text", "tool_use"], block: dict[str, Any]) -> bytes:
        closed = self._closed()
        self._open = kind
        self._blocks += 1
        return closed + _event("content_block_start", index=self._blocks - 1, content_block=block)

    def _delta(self, delta: dict[str, str]) -> bytes:
        return _event("content_block_delta", index=self._blocks - 1, delta=delta)

    def _closed(self) -> bytes:
        if self._open is None:
            return b""
        self._open = self._frame = None
        return _event("content_block_stop", index=self._blocks - 1)


async def _events(request: Request, stream: Stream, reading: Reading) -> AsyncGenerator[bytes]:
    """The body of a stream. A failure before its first event is raised; a later one is its last."""
    begun = False
    try:
        async with aclosing(reading.pieces()) as pieces:
            async for piece in pieces:
                who = reading.who
                # The opening names the model: where another may answer yet, there are only comments before.
                if isinstance(piece, Waiting) and (who is None or who.fallback):
                    events = waiting_comment(piece)
                else:
                    events = stream.event(who.spec.id if who else "", piece)
                if isinstance(piece, Ended):
                    note_answer(request, piece.answer)
                begun = True
                yield events
    except GatewayError as error:
        if not begun:
            raise
        yield error_event(error, stream.reply)


def error_event(error: GatewayError, reply: Reply) -> bytes:
    return encode_event("error", to_json(error_body(error, reply.request_id)))


def _use(call: ToolCall) -> dict[str, Any]:
    """A call as a block. Of one that was cut off there is what was written so far."""
    try:
        written = from_json(call.arguments, allow_partial=True)
    except ValueError:
        written = {}
    return {
        "type": "tool_use",
        "id": call.id,
        "name": call.name,
        "input": written if isinstance(written, dict) else {},
    }


def _usage(answer: Answer) -> dict[str, int]:
    """Token counts; 0 where the engine does not say how long the prompt is: clients need a number."""
    return {"input_tokens": answer.prompt_tokens or 0, "output_tokens": answer.completion_tokens}


def _event(name: str, **more: Any) -> bytes:
    return encode_event(name, to_json({"type": name, **more}))
