"""The OpenAI dialect: chat and text completions, and a clear no for the rest of that API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

from fastapi import Request, Response
from pydantic_core import to_json

from gateway.answers import Waiting
from gateway.api.asking import asked_of, note, who_answers
from gateway.api.bodies import cut_name
from gateway.api.context import begun_for, json_response, request_id_of
from gateway.api.names import model_asked
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
)
from gateway.api.openai_choices import Choice, End, Piece, side_by_side
from gateway.api.receipts import origin_headers, receipt_headers
from gateway.api.services import services_of
from gateway.api.streams import EventStream, shutting_down, stream_limit_s, until_left
from gateway.errors import GatewayError
from gateway.generation import GenerationRequest
from gateway.routing import Who
from gateway.tickets import Begun
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
    services, who = services_of(request), _who(request, body)
    asked = chat_requests(body, who.spec, services.scenarios, request.state.started)
    reply = reply_for(CHAT, request_id_of(request), body, who)
    return await _answer(request, body, reply, _by(who, asked, begun_for(request)))


async def completions(request: Request, body: CompletionBody) -> Response:
    """OpenAI's text completions: the prompt goes to the model as it is, unless a scenario is named."""
    who = _who(request, body)
    asked = completion_requests(body, who.spec, request.state.started)
    reply = reply_for(TEXT, request_id_of(request), body, who)
    return await _answer(request, body, reply, _by(who, asked, begun_for(request)))


AT_A_MODEL: Final[Mapping[str, Callable[..., Any]]] = {
    "/v1/chat/completions": chat_completions,
    "/v1/completions": completions,
}
"""What is also served at a model's own address, ``/models/{id}``."""


async def not_offered(request: Request) -> Response:
    """Other parts of OpenAI's API."""
    raise NotOffered(
        f"This gateway serves text generation only: there is nothing behind {request.url.path}.",
        hint="Use /v1/chat/completions or /v1/completions.",
    )


def _who(request: Request, body: SamplingBody) -> Who:
    """Who answers: whom the path names, or else the body; without both the default model."""
    name = model_asked(body.model, services_of(request).registry.names())
    if (in_path := request.path_params.get("model_id")) is not None:
        name = cut_name(in_path.strip("/"))
    return who_answers(request, asked_of(request, name, metadata=body.metadata, user=body.user))


def _by(who: Who, asked: Sequence[GenerationRequest], begun: Begun | None) -> list[GenerationRequest]:
    """All choices are the same model's. What was begun is one answer, and nobody else is asked for more."""
    first, *others = asked
    return [replace(first, who=who, begun=begun), *(replace(one, who=who) for one in others)]


def reply_for(form: Form, request_id: str, body: ChatBody | CompletionBody, who: Who) -> Reply:
    """What all bodies of an answer have in common."""
    prints = {spec.id: fingerprint_of(spec) for spec in (who.spec, *who.fallback)}
    return Reply(form, request_id, who.spec, body.likeliest, body.n, prints)


async def _answer(
    request: Request, body: SamplingBody, reply: Reply, asked: Sequence[GenerationRequest]
) -> Response:
    line = services_of(request).generations
    wants_logprobs = reply.logprobs is not None
    choices = [Choice(line, one, index, logprobs=wants_logprobs) for index, one in enumerate(asked)]
    pieces = side_by_side(choices)
    if not body.stream:
        return await until_left(request, _whole(request, reply, len(choices), pieces))
    events = _events(request, reply, Stream(reply, len(choices), body.stream_options.include_usage), pieces)
    head = await until_left(request, anext(events))
    limit_s = stream_limit_s(reply.spec.timeouts)
    farewell = error_event(shutting_down(), reply)
    return EventStream(head, events, _opening_headers(choices, reply), limit_s, farewell)


def _opening_headers(choices: Sequence[Choice], reply: Reply) -> dict[str, str]:
    """Who answers, as far as is known when the first choice has begun."""
    who = next((choice.who for choice in choices if choice.who is not None), Who(reply.spec))
    return origin_headers(who.spec.id, who.origin)


async def _whole(request: Request, reply: Reply, choices: int, pieces: AsyncGenerator[Piece]) -> Response:
    collected = [Collected() for _ in range(choices)]
    async with aclosing(pieces):
        async for piece in pieces:
            if not isinstance(piece, Waiting):
                collected[piece.index].add(piece)
    ends = [one.end for one in collected if one.end is not None]
    _note(request, ends)
    return json_response(reply.whole(collected), headers=receipt_headers(slowest(ends)))


def _note(request: Request, ends: Sequence[End]) -> None:
    tokens = sum(end.answer.completion_tokens for end in ends)
    note(request, slowest(ends).model_id, slowest(ends).origin, tokens=tokens)


async def _events(
    request: Request, reply: Reply, stream: Stream, pieces: AsyncGenerator[Piece]
) -> AsyncGenerator[bytes]:
    """The body of a stream. A failure before its first event is raised; a later one is its last."""
    begun = False
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                events = stream.events(piece)
                begun = True
                if stream.ends:
                    _note(request, stream.ends)
                yield events
    except GatewayError as error:
        if not begun:
            raise
        yield error_event(error, reply)


def error_event(error: GatewayError, reply: Reply) -> bytes:
    return encode_data(to_json(reply.form.error(error, reply.request_id)))
