"""Anthropic's messages on the fast path, without tools."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from pydantic_core import to_json

from gateway.answers import Answer
from gateway.api import anthropic
from gateway.api.anthropic_bodies import MessagesBody, request_of
from gateway.api.bodies import parse
from gateway.api.reading import Reader
from gateway.api.receipt_lines import header_lines, receipt_lines
from gateway.api.receipts import origin_headers
from gateway.api.streams import SSE_HEADERS
from gateway.errors import GatewayError
from gateway.fastpath.means import Means
from gateway.fastpath.text_wish import TextWish
from gateway.fastpath.wishes import Head, Wish
from gateway.preparing import GenerationRequest
from gateway.routing import DIRECT, Who


class MessageWish(TextWish):
    """One message."""

    __slots__ = ("_reply",)

    def __init__(self, asked: GenerationRequest, model_id: str, reply: anthropic.Reply) -> None:
        stream = anthropic.Stream(reply, speaks_first=True)
        reader = Reader(reply.own_stops, streams=asked.stream)
        super().__init__(asked, reader, partial(stream.said, model_id), partial(stream.event, model_id))
        self._reply = reply

    def plain(self, answer: Answer) -> tuple[bytes, str]:
        text, end = anthropic.collected(self._reader.end(answer))
        return to_json(self._reply.whole(text, end)), receipt_lines(answer) + header_lines(
            self._reply.headers
        )

    def opening(self, model_id: str) -> str:
        return header_lines({**SSE_HEADERS, **origin_headers(model_id, DIRECT), **self._reply.headers})

    def error(self, error: GatewayError) -> bytes:
        return anthropic.error_event(error, self._reply)


def messages(head: Head, raw: bytes, means: Means) -> Wish | None:
    """``POST /v1/messages``. A whole answer with stop strings is read token by token on the ordinary way."""
    body = parse(raw, MessagesBody)
    if body.tools or (body.stop_sequences and not body.stream):
        return None
    spec = means.generations.routing.direct(body.model)
    if spec is None:
        return None
    asked = replace(request_of(body, head.started), who=Who(spec))
    if asked.conversation is not None:
        return None
    return MessageWish(asked, spec.id, anthropic.Reply(head.request_id, body.stop_sequences))
