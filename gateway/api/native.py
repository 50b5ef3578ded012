"""The native dialect: /v1/generate and what belongs to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, Literal

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import to_json

from gateway.answers import Answer, Waiting
from gateway.api.asking import MAX_FALLBACKS, asked_of, note_answer, who_answers
from gateway.api.bodies import Name, NonEmptyName, null_is_left_out
from gateway.api.context import begun_for, error_body, json_response, request_id_of
from gateway.api.receipts import (
    ReceiptBody,
    origin_body,
    origin_headers,
    receipt_body,
    receipt_headers,
    waiting_comment,
)
from gateway.api.services import services_of
from gateway.api.streams import EventStream, shutting_down, stream_limit_s, until_left
from gateway.api.tgi_events import events_of, token_of
from gateway.errors import GatewayError, InvalidRequest
from gateway.generation import Generation, GenerationRequest
from gateway.parameters import Parameters, given_in
from gateway.routing import Asked, Who
from gateway.schemas import Language, Message, RawTokens, Role, Token
from gateway.tickets import Begun
from gateway.wire.json import KEYS_ALONE
from gateway.wire.sse import encode_event

MAX_MESSAGES = 1000
_TGI_TOKEN: Final = b'"token":{'
_TGI_TEXT_TOKEN_END: Final = b',"special":false}'
MAX_KEY = 512


class MessageBody(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Role = Field(description="system, user or assistant")
    content: str = Field(description="what was said")


class PromptBody(BaseModel):
    """What a prompt is made of."""

    model_config = ConfigDict(
        extra="forbid", strict=True, cache_strings=KEYS_ALONE, json_schema_extra=null_is_left_out
    )

    model_id: NonEmptyName | None = Field(None, description="model or alias; left out: the default model")
    inputs: str | None = Field(None, min_length=1, description="the text; instead of messages")
    messages: tuple[MessageBody, ...] | None = Field(
        None,
        min_length=1,
        max_length=MAX_MESSAGES,
        strict=False,
        description="a conversation; instead of inputs",
    )
    scenario: Name | None = Field(
        None, description="qa, summary, rewrite, general (default), raw, or your own"
    )
    language: Language | None = Field(None, description="language of the scenario; left out: that of inputs")
    parameters: Parameters = Field(Parameters(), description="generation parameters: TGI's names and rules")
    allow_special_tokens: bool = Field(False, description="let inputs contain the model's special tokens")
    template_args: dict[str, str] = Field({}, description="arguments of the model's template: date_string")
    continue_final_message: bool = Field(False, description="let the model go on with the last message")
    session: str | None = Field(
        None, max_length=MAX_KEY, description="key by which a split alias sends its owner to one model"
    )
    fallback: tuple[NonEmptyName, ...] | None = Field(
        None,
        max_length=MAX_FALLBACKS,
        strict=False,
        description="models that may answer instead; left out: those of the alias",
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, body: Any) -> Any:
        if isinstance(body, dict):
            return {name: value for name, value in body.items() if value is not None}
        return body


class GenerateBody(PromptBody):
    """A request to generate."""

    stream: bool = Field(False, description="send tokens as server-sent events")
    events: bool = Field(False, description="in a stream: say as typed events how a wait goes")
    wait_s: float | None = Field(
        None, gt=0, description="wait at most this many seconds for a turn, then 503"
    )


class RenderBody(GenerateBody):
    """A request to see the prompt. Takes all that /v1/generate takes."""

    add_generation_prompt: bool = Field(True, description="end with the beginning of the model's own turn")


class Usage(BaseModel):
    """Token counts; null where the engine does not say."""

    prompt_tokens: int | None
    completion_tokens: int
    total_tokens: int | None


class GenerateAnswer(BaseModel):
    """A whole answer; also the last event of a stream."""

    model_id: str
    alias: str | None = None
    arm: str | None = None
    fallback_from: str | None = None
    fallback_reason: str | None = None
    generated_text: str
    finish_reason: Literal["length", "eos_token", "stop_sequence"]
    usage: Usage
    receipt: ReceiptBody
    request_id: str
    seed: int | None = None
    details: dict[str, Any] | None = None


class RenderAnswer(BaseModel):
    """The prompt exactly as the engine would get it."""

    model_id: str
    prompt: str
    stop: list[str]
    token_count: int | None


async def generate(request: Request, body: GenerateBody) -> Response:
    """Generate text: in one piece, or with `"stream": true` as server-sent events.

    Events are `token`, then one `done` with the whole answer, or `error`. While the model has to be
    brought in, comments say so; with `"events": true` also `queued`, `draining`, `loading`, `ready`, and
    `fallback` when another model answers instead.
    """
    line = services_of(request).generations
    who, begun = who_answers(request, _wanted(request, body)), begun_for(request)
    asked = asked_for(body, request.state.started, who, begun)
    if not body.stream:
        answer = await until_left(request, line.complete(asked))
        note_answer(request, answer)
        return json_response(answer_body(answer, request_id_of(request)), headers=receipt_headers(answer))
    generation = await until_left(request, line.start(asked))
    events = _events(generation, body, request)
    head = await until_left(request, anext(events))
    limit_s = stream_limit_s(generation.spec.timeouts)
    headers = origin_headers(generation.spec.id, generation.who.origin)
    return EventStream(head, events, headers, limit_s, error_event(shutting_down(), request_id_of(request)))


async def render_prompt(request: Request, body: RenderBody) -> Response:
    """The prompt exactly as it would be sent, with its token count when the engine can count."""
    services = services_of(request)
    who = services.generations.routing.peek(_wanted(request, body))
    prepared = services.generations.prepare(asked_for(body, request.state.started, who))
    count = await services.generations.count_tokens(prepared.spec, prepared.prompt)
    return json_response(
        {
            "model_id": prepared.spec.id,
            "prompt": prepared.prompt.text,
            "stop": list(prepared.stop),
            "token_count": count,
        }
    )


async def scenarios(request: Request) -> Response:
    """All scenarios: the built-in ones and those of the registry."""
    rows: list[dict[str, object]] = [
        {
            "id": name,
            "description": scenario.description,
            "languages": list(scenario.languages),
            "system": scenario.system,
            "user": scenario.user,
            "parameters": scenario.parameters,
        }
        for name, scenario in services_of(request).scenarios.items()
    ]
    return json_response({"object": "list", "data": rows})


def _wanted(request: Request, body: PromptBody) -> Asked:
    return asked_of(request, body.model_id, session=body.session, fallback=body.fallback)


def asked_for(
    body: PromptBody, started: float, who: Who | None = None, begun: Begun | None = None
) -> GenerationRequest:
    """What the line is asked for. Raises InvalidRequest."""
    if (body.inputs is None) == (body.messages is None):
        what = "are both missing" if body.inputs is None else "exclude each other"
        raise InvalidRequest(f"inputs and messages {what}.", field="inputs", hint="Send exactly one of them.")
    if body.messages is not None and body.scenario not in (None, "general"):
        raise InvalidRequest(
            f"The scenario {body.scenario} wraps inputs, and messages have none.",
            field="scenario",
            hint="Send inputs, or leave the scenario out.",
        )
    turns = body.messages
    messages = None if turns is None else tuple(Message(turn.role, turn.content) for turn in turns)
    return GenerationRequest(
        model=body.model_id,
        inputs=body.inputs,
        messages=messages,
        parameters=given_in(body.parameters),
        started=started,
        scenario=body.scenario,
        language=body.language,
        allow_special_tokens=body.allow_special_tokens,
        template_args=body.template_args,
        add_generation_prompt=getattr(body, "add_generation_prompt", True),
        continue_final_message=body.continue_final_message,
        stream=getattr(body, "stream", False),
        wait_s=getattr(body, "wait_s", None),
        who=who,
        begun=begun,
    )


def answer_body(answer: Answer, request_id: str) -> dict[str, Any]:
    """A GenerateAnswer."""
    prompt, completion = answer.prompt_tokens, answer.completion_tokens
    body: dict[str, Any] = {
        "model_id": answer.model_id,
        **origin_body(answer.origin),
        "generated_text": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": None if prompt is None else prompt + completion,
        },
        "receipt": receipt_body(answer.receipt),
        "request_id": request_id,
    }
    if answer.seed is not None:
        body["seed"] = answer.seed
    if answer.details is not None:
        body["details"] = dict(answer.details)
    return body


async def _events(generation: Generation, body: GenerateBody, request: Request) -> AsyncGenerator[bytes]:
    """The body of a stream. A failure before its first chunk is raised; a later one is its last event."""
    writer, begun = EventWriter(request_id_of(request)), False
    waited = generation.waits
    try:
        async with aclosing(generation.events()) as events:
            async for event in events:
                chunk = b""
                if isinstance(event, Waiting):
                    chunk = _waiting(event, body.events)
                elif waited and body.events:
                    chunk = encode_event("ready", to_json({"model_id": generation.spec.id}))
                waited = waited and isinstance(event, Waiting)
                if isinstance(event, Answer):
                    note_answer(request, event)
                    chunk += writer.last(event)
                elif isinstance(event, Token):
                    chunk += writer.token(event)
                if chunk:
                    begun = True
                    yield chunk
    except GatewayError as error:
        if not begun:
            raise
        yield error_event(error, request_id_of(request))
    finally:
        await generation.aclose()


class EventWriter:
    """The events of one stream."""

    __slots__ = ("_index", "_request_id")

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._index = 0

    def token(self, token: Token) -> bytes:
        """One ``token`` event; nothing for a special token, which is not text."""
        if token.special:
            return b""
        self._index += 1
        data = {"index": self._index, "id": token.id, "text": token.text, "logprob": token.logprob}
        return encode_event("token", to_json(data))

    def raw(self, tokens: RawTokens) -> bytes:
        """The same of tokens as TGI wrote them. What both say is not taken apart and put together again."""
        return b"".join([self.passed(event) for event in events_of(tokens)])

    def passed(self, event: bytes) -> bytes:
        """One token as TGI wrote it."""
        # Quotes inside a text are escaped, so these can only be the fields.
        fields = event[event.find(_TGI_TOKEN) + len(_TGI_TOKEN) : event.find(_TGI_TEXT_TOKEN_END)]
        if not fields.startswith(b'"id":') or b',"logprob":' not in fields or b'"special":' in fields:
            return self.token(token_of(event))
        self._index += 1
        return b'event: token\ndata: {"index":%d,%b}\n\n' % (self._index, fields)

    def last(self, answer: Answer) -> bytes:
        """The ``done`` event."""
        return encode_event("done", to_json(answer_body(answer, self._request_id)))


def error_event(error: GatewayError, request_id: str) -> bytes:
    return encode_event("error", to_json(error_body(error, request_id)))


def _waiting(waiting: Waiting, typed: bool) -> bytes:
    outlook, progress = waiting.outlook, waiting.progress
    comment = waiting_comment(waiting)
    if not typed:
        return comment
    if waiting.fell_back is not None:
        who = {"model_id": waiting.model_id, **origin_body(waiting.fell_back)}
        return comment + encode_event("fallback", to_json(who))
    data = {
        "model_id": waiting.model_id,
        "position": outlook.position,
        "phase": progress.phase if progress else None,
        "progress": progress.fraction if progress else None,
        "eta_s": outlook.eta_s,
        "waited_s": round(waiting.waited_s, 3),
    }
    return comment + encode_event(outlook.phase, to_json(data))
