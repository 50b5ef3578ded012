"""The bodies of TGI's routes: what is accepted, and what an error looks like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gateway.api.bodies import Name
from gateway.api.context import Envelope
from gateway.api.shapes import TgiError
from gateway.errors import EngineError, GatewayError, InvalidRequest, Overloaded, WaitTimeout
from gateway.parameters import Grammar, Parameters
from gateway.schemas import Role
from gateway.upstream.base import Truncated
from gateway.wire.json import KEYS_ALONE

MAX_MESSAGES: Final = 1000


class TgiGrammar(Grammar):
    """Constrains the output to a JSON schema or a regular expression."""

    model_config = ConfigDict(extra="ignore")


class TgiParameters(Parameters):
    """Generation parameters under TGI's rules. Unknown ones are ignored."""

    model_config = ConfigDict(extra="ignore")

    grammar: TgiGrammar | None = Field(None, description='an object {"type": "json" or "regex", "value": …}')


class TgiBody(BaseModel):
    """A request of TGI's own API. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, cache_strings=KEYS_ALONE)

    inputs: str = Field(min_length=1, description="the prompt, sent as it is")
    parameters: TgiParameters | None = Field(None, description="left out altogether: TGI samples")


class TgiCompatBody(TgiBody):
    """The same with the choice of how to be answered."""

    stream: bool | None = Field(None, description="send tokens as server-sent events")


class TgiMessage(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Role
    content: str = Field(description="a string, or a list of text parts")

    @field_validator("content", mode="before")
    @classmethod
    def _parts_in_one(cls, content: object) -> object:
        return "".join(map(_text_of, content)) if isinstance(content, list) else content


def _text_of(part: object) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise ValueError('every part must be {"type": "text", "text": …}: there are no images here')


class TgiChatBody(BaseModel):
    """A conversation to be rendered and split into tokens."""

    model_config = ConfigDict(extra="ignore", strict=True, cache_strings=KEYS_ALONE)

    model: Name | None = Field(None, description="model or alias; `tgi` and `dummy`: the default model")
    messages: tuple[TgiMessage, ...] = Field(min_length=1, max_length=MAX_MESSAGES, strict=False)
    tools: list[Any] | None = Field(None, max_length=0, description="not rendered here")


_OPENING: Final = {
    "validation": "Input validation error: ",
    "overloaded": "Model is overloaded: ",
    "generation": "Request failed during generation: ",
    "incomplete_generation": "Incomplete generation: ",
}


def error_body(error: GatewayError, request_id: str = "") -> Mapping[str, Any]:
    """TGI's envelope: exactly two strings, with the words by which its clients choose their exception."""
    kind = _kind(error)
    # TGI has no words for a body that it cannot read at all.
    opening = "" if kind == "validation" and error.status != InvalidRequest.status else _OPENING.get(kind, "")
    hint = f" {error.hint}" if error.hint else ""
    return {"error": f"{opening}{error.message}{hint}", "error_type": kind}


def _kind(error: GatewayError) -> str:
    match error:
        case InvalidRequest():
            return "validation"
        case Overloaded() | WaitTimeout():
            return "overloaded"
        case Truncated():
            return "incomplete_generation"
        case EngineError():
            return "generation"
        case _:
            return error.type


ENVELOPE: Final = Envelope(error_body, TgiError, statuses={EngineError.status: 424})
"""TGI answers with 424 when a generation fails; the other statuses are ours."""
