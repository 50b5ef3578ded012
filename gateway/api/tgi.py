"""The dialect of Text Generation Inference: its own routes, for clients that were made for it.

A model is chosen by path (``/models/{id}/generate``), by the header ``x-gateway-model``, or it is the default
one. Inputs go to the model as they are, under TGI's rules; what TGI ignores is ignored, and null is
the same as left out everywhere.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Final

from fastapi import Request, Response

from gateway import parameters as rules
from gateway.answers import Answer, Waiting
from gateway.api.asking import asked_of, note_answer, who_answers
from gateway.api.bodies import cut_name
from gateway.api.context import begun_for, json_response
from gateway.api.names import model_asked
from gateway.api.receipts import waiting_comment
from gateway.api.services import Services, services_of
from gateway.api.streams import EventStream, shutting_down, stream_limit_s, until_left
from gateway.api.tgi_answers import (
    EventWriter,
    answer_headers,
    details_asked,
    details_of,
    error_event,
    stream_headers,
)
from gateway.api.tgi_bodies import TgiBody, TgiChatBody, TgiCompatBody
from gateway.api.tgi_requests import asked_for
from gateway.api.tokens import tokens_of
from gateway.config import ModelSpec
from gateway.errors import GatewayError, MethodNotAllowed, ModelNotFound
from gateway.generation import Generation, GenerationRequest
from gateway.scheduler import State
from gateway.schemas import Message, RawTokens, Token
from gateway.wire.tgi import error_body as wire_error

MODEL_HEADER: Final = "x-gateway-model"
VERSION: Final = "3.3.6-dev0"
"""What the last TGI releases say of themselves, for clients that look whether a feature is there."""
METHODS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("generate", "generate_stream", "tokenize", "chat_tokenize", "invocations"), "POST"),
    **dict.fromkeys(("info", "health"), "GET"),
}
_INFO_S: Final = 5.0


# ---------------------------------------------------------------- routes


async def generate(request: Request, body: TgiBody) -> Response:
    """Generate in one piece."""
    return await _whole(request, body)


async def generate_stream(request: Request, body: TgiBody) -> Response:
    """Generate as server-sent events, in TGI's bytes. Waiting for a model shows as comments."""
    return await _stream(request, body)


async def compat(request: Request, body: TgiCompatBody) -> Response:
    """Either of both, as `stream` says. In one piece the answer is a list of one."""
    given = body.parameters
    # On this route TGI answers with the prompt in front, unless told not to.
    full_text = given is None or given.return_full_text is None
    if body.stream:
        return await _stream(request, body, full_text=full_text)
    return await _whole(request, body, full_text=full_text, as_list=True)


async def tokenize(request: Request, body: TgiBody) -> Response:
    """The tokens of `inputs`, as the model's engine splits them."""
    services, spec = services_of(request), _spec(request)
    return json_response(await _split(request, services, spec, body.inputs))


async def chat_tokenize(request: Request, body: TgiChatBody) -> Response:
    """A conversation as the prompt that the model gets, and its tokens."""
    services, spec = services_of(request), _spec(request, body.model)
    prepared = services.generations.prepare(
        GenerationRequest(
            model=spec.id,
            inputs=None,
            messages=tuple(Message(turn.role, turn.content) for turn in body.messages),
            parameters={},
            started=request.state.started,
            continue_final_message=body.messages[-1].role == "assistant",
        )
    )
    text = prepared.prompt.text
    tokens = await _split(request, services, spec, text)
    return json_response({"tokenize_response": tokens, "templated_text": text})


async def info(request: Request) -> Response:
    """What a model takes: in its engine's words when it is in, otherwise from the registry."""
    services, spec = services_of(request), _spec(request)
    own, said = _own_info(spec), await until_left(request, _said_by_engine(services, spec))
    body = {name: said[name] if said.get(name) is not None else value for name, value in own.items()}
    # The gateway's limits come first: beyond them nothing reaches the engine.
    for name in ("max_best_of", "max_stop_sequences"):
        body[name] = min(own[name], body[name])
    body["max_concurrent_requests"] = own["max_concurrent_requests"]
    return json_response(body, headers={MODEL_HEADER: spec.id})


async def health(request: Request) -> Response:
    """Whether a model can be asked, be it that it comes in then. In TGI's way the answer has no body."""
    services, spec = services_of(request), _spec(request)
    view, control = services.manager.view(spec.id), services.manager.entry(spec.id).control
    if view.state is State.FAILED or not control.available:
        reason = view.reason or f"nothing answers for {spec.id}"
        return json_response(wire_error(f"unhealthy: {reason}", "healthcheck"), status=503)
    return Response(headers={MODEL_HEADER: spec.id})


# ---------------------------------------------------------------- which model


def _spec(request: Request, named: str | None = None) -> ModelSpec:
    """The model that is asked for; of a split, the one that would be likely to answer."""
    asked = asked_of(request, _name(request, named))
    return services_of(request).generations.routing.peek(asked).spec


def _name(request: Request, named: str | None = None) -> str | None:
    """The name in the path, or in the header, or ``named``; None for the default one."""
    in_path = request.path_params.get("model_id")
    name = request.headers.get(MODEL_HEADER) or named if in_path is None else in_path.strip("/")
    name = cut_name(name or "")
    if name and services_of(request).registry.resolve(name) is not None:
        return name
    if in_path is not None:
        _check_path(request, name)
    return model_asked(name, services_of(request).registry.names())


def _check_path(request: Request, name: str) -> None:
    """``name`` is no model's: say what is wrong with a path whose end was meant as something else."""
    if not name:
        raise ModelNotFound("The path names no model.", hint="Use /models/{id}, or leave /models out.")
    method = METHODS.get(name.rpartition("/")[2])
    if method is not None and method != request.method:
        path = request.url.path
        raise MethodNotAllowed(f"{request.method} does not work on {path}.", allowed=method)


# ---------------------------------------------------------------- generating


def _asked(request: Request, body: TgiBody, *, full_text: bool, stream: bool) -> GenerationRequest:
    who = who_answers(request, asked_of(request, _name(request)))
    asked = asked_for(body, who, request.state.started, full_text=full_text, stream=stream)
    return replace(asked, begun=begun_for(request))


async def _whole(
    request: Request, body: TgiBody, *, full_text: bool = False, as_list: bool = False
) -> Response:
    asked = _asked(request, body, full_text=full_text, stream=False)
    services, details = services_of(request), details_asked(body)
    answer, tokens = await until_left(request, _answered(services, asked, details))
    note_answer(request, answer)
    said: dict[str, Any] = {"generated_text": answer.text}
    if details:
        said["details"] = details_of(answer, tokens)
    headers = answer_headers(body, answer)
    return json_response([said] if as_list else said, headers=headers)


async def _answered(
    services: Services, asked: GenerationRequest, details: bool
) -> tuple[Answer, list[Token] | None]:
    """The answer; with ``details`` also its tokens, unless the engine gives them with the answer."""
    line = services.generations
    if not details or not rules.streamable(line.prepare(asked).parameters):
        return await line.complete(asked), None
    tokens: list[Token] = []
    generation = await line.start(replace(asked, stream=True))
    try:
        async with aclosing(generation.events()) as events:
            async for event in events:
                if isinstance(event, Token):
                    tokens.append(event)
                elif isinstance(event, Answer):
                    return event, tokens
    finally:
        await generation.aclose()
    raise RuntimeError("a generation ends with its Answer or with an error")


async def _stream(request: Request, body: TgiBody, *, full_text: bool = False) -> Response:
    asked = _asked(request, body, full_text=full_text, stream=True)
    generation = await until_left(request, services_of(request).generations.start(asked))
    times = generation.spec.timeouts
    events = _events(generation, details=details_asked(body), heard=partial(note_answer, request))
    head = await until_left(request, anext(events))
    headers = stream_headers(body.inputs, generation.spec.id, generation.who.origin)
    return EventStream(head, events, headers, stream_limit_s(times), error_event(shutting_down()))


async def _events(
    generation: Generation, *, details: bool, heard: Callable[[Answer], None] = lambda _: None
) -> AsyncGenerator[bytes]:
    """The body of a stream. The last token and the whole text are one event.

    ``heard`` is told of the answer. A failure before the first chunk is raised; a later one is an event,
    and the end.
    """
    writer, begun = EventWriter(details=details), False
    try:
        async with aclosing(generation.raw_events()) as events:
            async for event in events:
                if isinstance(event, Waiting):
                    chunk = waiting_comment(event)
                elif isinstance(event, Answer):
                    heard(event)
                    chunk = writer.last(event)
                elif isinstance(event, RawTokens):
                    chunk = writer.raw(event)
                else:
                    chunk = writer.token(event)
                if chunk:
                    begun = True
                    yield chunk
    except GatewayError as error:
        if not begun:
            raise
        yield error_event(error)
    finally:
        await generation.aclose()


# ---------------------------------------------------------------- tokens and limits


async def _split(request: Request, services: Services, spec: ModelSpec, text: str) -> list[dict[str, Any]]:
    tokens = await until_left(request, tokens_of(services, spec, text))
    return [asdict(token) for token in tokens]


async def _said_by_engine(services: Services, spec: ModelSpec) -> Mapping[str, Any]:
    url = services.manager.url_if_ready(spec.id)
    if url is None:
        return {}
    try:
        return await services.generations.engine(spec).info(url, _INFO_S)
    except GatewayError:
        return {}


def _own_info(spec: ModelSpec) -> dict[str, Any]:
    limits = spec.limits
    return {
        "model_id": spec.title,
        "model_sha": None,
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": limits.max_concurrent + limits.max_queue,
        "max_best_of": rules.MAX_BEST_OF,
        "max_stop_sequences": rules.MAX_STOP_SEQUENCES,
        "max_input_tokens": limits.max_input_tokens,
        "max_total_tokens": limits.max_total_tokens,
        "validation_workers": 1,
        "max_client_batch_size": 1,
        "router": "text-generation-router",
        "version": VERSION,
        "sha": None,
        "docker_label": None,
    }
