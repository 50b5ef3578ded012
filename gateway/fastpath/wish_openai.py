"""OpenAI's two routes on the fast path: one choice, without tools and log probabilities."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from pydantic_core import to_json

from gateway.answers import Answer
from gateway.api import openai
from gateway.api.bodies import parse
from gateway.api.names import model_asked
from gateway.api.openai_answers import CHAT, TEXT, Collected, Reply, Stream
from gateway.api.openai_bodies import (
    ChatBody,
    CompletionBody,
    SamplingBody,
    chat_requests,
    completion_requests,
)
from gateway.api.openai_choices import numbered
from gateway.api.reading import Ended, Reader, Said
from gateway.api.receipt_lines import header_lines, receipt_lines
from gateway.api.receipts import origin_headers
from gateway.api.streams import SSE_HEADERS
from gateway.config import ModelSpec
from gateway.errors import GatewayError
from gateway.fastpath.means import Means
from gateway.fastpath.text_wish import TextWish
from gateway.fastpath.wishes import Head, Wish
from gateway.preparing import GenerationRequest
from gateway.routing import DIRECT, Who


class OpenAiWish(TextWish):
    """One choice."""

    __slots__ = ("_reply",)

    def __init__(self, asked: GenerationRequest, reply: Reply, *, include_usage: bool) -> None:
        stream, model_id = Stream(reply, 1, include_usage), reply.spec.id
        text = partial(stream.said, model_id)
        super().__init__(asked, Reader(streams=asked.stream), text, partial(_events, stream, model_id))
        self._reply = reply

    def plain(self, answer: Answer) -> tuple[bytes, str]:
        collected = Collected()
        for piece in self._reader.end(answer):
            collected.add(numbered(piece, 0, answer.model_id))
        return to_json(self._reply.whole([collected])), receipt_lines(answer)

    def opening(self, model_id: str) -> str:
        return header_lines({**SSE_HEADERS, **origin_headers(model_id, DIRECT)})

    def error(self, error: GatewayError) -> bytes:
        return openai.error_event(error, self._reply)


def _events(stream: Stream, model_id: str, piece: Said | Ended) -> bytes:
    return stream.events(numbered(piece, 0, model_id))


def chat(head: Head, raw: bytes, means: Means) -> Wish | None:
    """``POST /v1/chat/completions``."""
    body = parse(raw, ChatBody)
    spec = _spec(body, means)
    if spec is None or body.logprobs or body.tools:
        return None
    asked = chat_requests(body, spec, means.scenarios, head.started)[0]
    if asked.conversation is not None:
        return None
    who = Who(spec)
    reply = openai.reply_for(CHAT, head.request_id, body, who)
    return OpenAiWish(replace(asked, who=who), reply, include_usage=body.stream_options.include_usage)


def completion(head: Head, raw: bytes, means: Means) -> Wish | None:
    """``POST /v1/completions``."""
    body = parse(raw, CompletionBody)
    spec = _spec(body, means)
    if spec is None or body.logprobs is not None or len(body.prompt) > 1:
        return None
    asked, who = completion_requests(body, spec, head.started)[0], Who(spec)
    reply = openai.reply_for(TEXT, head.request_id, body, who)
    return OpenAiWish(replace(asked, who=who), reply, include_usage=body.stream_options.include_usage)


def _spec(body: SamplingBody, means: Means) -> ModelSpec | None:
    """Who answers; None for the ordinary way, on which whole answers with stop strings are read by tokens."""
    if body.n > 1 or (body.stop and not body.stream):
        return None
    routing = means.generations.routing
    return routing.direct(model_asked(body.model, routing.names))
