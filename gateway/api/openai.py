"""The OpenAI dialect: chat and text completions, and a clear no for the rest of that API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from fastapi import Request, Response
from pydantic_core import to_json

from gateway.answers import Waiting
from gateway.api.context import json_response, request_id_of
from gateway.api.openai_answers import (
    CHAT,
    TEXT,
    Collected,
    Form,
    Reply,
    Stream,
    fingerprint_of,
    slowest,
)
from gateway.api.openai_bodies import (
    ChatBody,
    CompletionBody,
    SamplingBody,
    chat_requests,
    completion_requests,
    model_asked,
)
from gateway.api.openai_choices import Choice, Piece, side_by_side
from gateway.api.receipts import receipt_headers
from gateway.api.services import services_of
from gateway.api.streams import EventStream, shutting_down, stream_limit_s, until_left
from gateway.config import ModelSpec
from gateway.errors import GatewayError
from gateway.generation import GenerationRequest
from gateway.wire.sse import encode_data

NOT_OFFERED = ("/v1/embeddings", "/v1/responses", "/v1/moderations", "/v1/images/{what}", "/v1/audio/{what}")
NOT_OFFERED_ROOTS = tuple(path.removesuffix("/{what}") for path in NOT_OFFERED)


class NotOffered(GatewayError):
    """A route of OpenAI's API that this gateway does not have."""

    status = 501
    type = "not_offered"


async def chat_completions(request: Request, body: ChatBody) -> Response:
    """OpenAI's chat completions: the conversation goes through the model's own template.

    Of a stream, comments say how it goes while the model has to be brought in.
    """
    services, spec = services_of(request), _spec(request, body)
    asked = chat_requests(body, spec, services.scenarios, request.state.started)
    return await _answer(request, body, _reply(CHAT, request, body, spec), asked)


async def completions(request: Request, body: CompletionBody) -> Response:
    """OpenAI's text completions: the prompt goes to the model as it is, unless a scenario is named."""
    spec = _spec(request, body)
    asked = completion_requests(body, spec, request.state.started)
    return await _answer(request, body, _reply(TEXT, request, body, spec), asked)


async def not_offered(request: Request) -> Response:
    """Other parts of OpenAI's API."""
    raise NotOffered(
        f"This gateway serves text generation only: there is nothing behind {request.url.path}.",
        hint="Use /v1/chat/completions or /v1/completions.",
    )


def _spec(request: Request, body: SamplingBody) -> ModelSpec:
    services = services_of(request)
    return services.generations.spec(model_asked(body.model, services.registry.names()))


def _reply(form: Form, request: Request, body: ChatBody | CompletionBody, spec: ModelSpec) -> Reply:
    return Reply(form, request_id_of(request), spec, body.likeliest, body.n, fingerprint_of(spec))


async def _answer(
    request: Request, body: SamplingBody, reply: Reply, asked: Sequence[GenerationRequest]
) -> Response:
    line = services_of(request).generations
    wants_logprobs = reply.logprobs is not None
    choices = [Choice(line, one, index, logprobs=wants_logprobs) for index, one in enumerate(asked)]
    pieces = side_by_side(choices)
    if not body.stream:
        return await until_left(request, _whole(request, reply, len(choices), pieces))
    request.state.log = {"model": reply.spec.id}
    events = _events(reply, Stream(reply, len(choices), body.stream_options.include_usage), pieces)
    head = await until_left(request, anext(events))
    limit_s = stream_limit_s(reply.spec.timeouts)
    farewell = _error(shutting_down(), reply)
    return EventStream(head, events, {"x-gateway-model": reply.spec.id}, limit_s, farewell)


async def _whole(request: Request, reply: Reply, choices: int, pieces: AsyncGenerator[Piece]) -> Response:
    collected = [Collected() for _ in range(choices)]
    async with aclosing(pieces):
        async for piece in pieces:
            if not isinstance(piece, Waiting):
                collected[piece.index].add(piece)
    ends = [one.end for one in collected if one.end is not None]
    tokens = sum(end.answer.completion_tokens for end in ends)
    request.state.log = {"model": reply.spec.id, "tokens": tokens}
    return json_response(reply.whole(collected), headers=receipt_headers(slowest(ends)))


async def _events(reply: Reply, stream: Stream, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[bytes]:
    """The body of a stream. A failure before its first event is raised; a later one is its last."""
    begun = False
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                events = stream.events(piece)
                begun = True
                yield events
    except GatewayError as error:
        if not begun:
            raise
        yield _error(error, reply)


def _error(error: GatewayError, reply: Reply) -> bytes:
    return encode_data(to_json(reply.form.error(error, reply.request_id)))
