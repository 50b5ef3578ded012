"""What Anthropic's clients send, the requests for our own line that it becomes, and what an error looks like.

Fields that would change the answer and that we cannot honour are refused by their names, fields that do not
change it are listed here and ignored, and unknown ones are refused, as that API does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.api.anthropic_tools import Text, ToolBody, ToolChoice, Turn, choice_of, tools_of, turns_of
from gateway.api.bodies import NonEmptyName, null_is_left_out
from gateway.api.context import Envelope
from gateway.api.shapes import AnthropicError
from gateway.api.tool_bodies import MAX_TOOLS, conversation, messages
from gateway.errors import GatewayError, InvalidRequest, NotSupported
from gateway.generation import GenerationRequest
from gateway.parameters import I32_MAX, MAX_STOP_SEQUENCES, U32_MAX, StopSequence
from gateway.wire.json import KEYS_ALONE

MAX_MESSAGES: Final = 1000
MAX_OWN_STOPS: Final = 64

IGNORED: Final = frozenset(
    {
        "cache_control",
        "diagnostics",
        "inference_geo",
        "service_tier",
        "speed",
        "user_profile_id",
        "workspace_id",
    }
)
"""Fields about billing and caching: the answer is the same without them."""

REFUSED: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "mcp_servers": (([],), "tools are run by the client"),
    "thinking": (({"type": "disabled"},), "models here do not think apart from what they say"),
    "output_config": (({},), "answers are free text"),
    "output_format": ((), "answers are free text"),
    "container": ((), "nothing is executed here"),
    "context_management": (({},), "conversations go to the model as they are"),
}
"""Fields that would change the answer: the values that change nothing, and why others are not honoured."""


class CountBody(BaseModel):
    """Body of /v1/messages/count_tokens."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        cache_strings=KEYS_ALONE,
        json_schema_extra=null_is_left_out,
    )

    model: NonEmptyName = Field(description="model or alias")
    messages: tuple[Turn, ...] = Field(
        min_length=1,
        max_length=MAX_MESSAGES,
        strict=False,
        description="the conversation; a last turn of the assistant is continued",
    )
    system: Text | None = Field(None, description="system prompt: text, or a list of text blocks")
    tools: tuple[ToolBody, ...] = Field(
        (), max_length=MAX_TOOLS, strict=False, description="tools that the model may call"
    )
    tool_choice: ToolChoice | None = Field(None, description="which of them have to be called")

    metadata: Any = Field(None, description="its user_id is a key for split aliases")

    @model_validator(mode="before")
    @classmethod
    def _only_what_counts(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        for name, (harmless, why) in REFUSED.items():
            value = body.get(name)
            if value is not None and value not in harmless:
                raise NotSupported(f"{name} is not supported: {why}.", field=name, hint="Leave it out.")
        left_out = IGNORED | REFUSED.keys()
        return {name: value for name, value in body.items() if value is not None and name not in left_out}


class MessagesBody(CountBody):
    """Body of /v1/messages."""

    max_tokens: int = Field(gt=0, le=U32_MAX, description="at most this many tokens")
    stop_sequences: tuple[StopSequence, ...] = Field(
        (), max_length=MAX_OWN_STOPS, strict=False, description="the text ends before the first of these"
    )
    temperature: float | None = Field(None, ge=0, le=1, description="0 takes the likeliest token each time")
    top_p: float | None = Field(None, ge=0, le=1, description="1 switches it off")
    top_k: int | None = Field(None, ge=0, le=I32_MAX, description="0 switches it off")
    stream: bool = Field(False, description="send server-sent events")


def request_of(body: CountBody, started: float) -> GenerationRequest:
    """What the body asks of our own line. ``started`` is when the request came, on the monotonic clock."""
    turns = turns_of(body.system, body.messages)
    mode, only, parallel = choice_of(body.tool_choice, offered=bool(body.tools))
    with_tools = conversation(turns, tools_of(body.tools), mode, only=only, parallel=parallel)
    asked = GenerationRequest(
        model=body.model,
        inputs=None,
        messages=None if with_tools else messages(turns),
        parameters={},
        started=started,
        continue_final_message=turns[-1].role == "assistant",
        conversation=with_tools,
    )
    if not isinstance(body, MessagesBody):
        return asked
    # An engine sees a stop string only at the end of a token, and can run past one inside.
    reads_tokens = body.stream or bool(body.stop_sequences)
    return replace(asked, parameters=_parameters(body), stream=reads_tokens, without=_without(body))


def _parameters(body: MessagesBody) -> dict[str, Any]:
    """TGI's parameters. What the client did not set is left to the defaults of scenario and model."""
    given: dict[str, Any] = {"max_new_tokens": body.max_tokens}
    if body.stop_sequences:
        # An engine takes only so many; the rest is found in what it says.
        given["stop"] = list(body.stop_sequences[:MAX_STOP_SEQUENCES])
    if body.temperature == 0 or body.top_p == 0:
        return {**given, "do_sample": False}
    sampling = {"temperature": body.temperature, "top_p": body.top_p, "top_k": body.top_k}
    given |= {name: value for name, value in sampling.items() if value is not None}
    if body.temperature is not None:
        # A temperature of 1 alone would leave an engine greedy.
        given["do_sample"] = True
    return given


def _without(body: MessagesBody) -> frozenset[str]:
    """What the client switches off."""
    off = {"top_p": body.top_p == 1, "top_k": body.top_k == 0}
    return frozenset(name for name, is_off in off.items() if is_off)


def error_body(error: GatewayError, request_id: str) -> dict[str, Any]:
    """Anthropic's error envelope. It has one sentence for people, so the hint is a part of it."""
    hint = f" {error.hint}" if error.hint else ""
    said = {"type": _kind(error), "message": f"{error.message}{hint}"}
    return {"type": "error", "error": said, "request_id": request_id}


_KINDS: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def _kind(error: GatewayError) -> str:
    return _KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")


ENVELOPE: Final = Envelope(error_body, AnthropicError, {InvalidRequest.status: 400}, "request-id")
"""A broken rule is 400 in that API. A model that cannot answer now stays 503 and does not become that API's
529: proxies know 503, Retry-After is defined for it, and clients repeat both."""
