"""Generation parameters: TGI's names and rules, checked before anything is sent.

The rules are those of TGI 3.3.7's router (``router/src/validation.rs``), where a broken one would
come back as 422 after the queue, or as an error inside a stream that has already begun.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.errors import InvalidRequest

MAX_STOP_SEQUENCES = 4
MAX_BEST_OF = 2
MAX_TOP_N_TOKENS = 5
U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1
I32_MAX = 2**31 - 1

StopSequence = Annotated[str, Field(min_length=1)]


class Grammar(BaseModel):
    """Constrains the output to a JSON schema or a regular expression."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["json", "regex", "json_schema"]
    value: Any


class Parameters(BaseModel):
    """Everything may be left out or null; what is left out is the engine's own default."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    max_new_tokens: int | None = Field(None, gt=0, le=U32_MAX, description="an integer above 0")
    temperature: float | None = Field(None, gt=0, description="a number above 0")
    top_p: float | None = Field(None, gt=0, lt=1, description="a number above 0 and below 1")
    typical_p: float | None = Field(None, gt=0, lt=1, description="a number above 0 and below 1")
    top_k: int | None = Field(None, gt=0, le=I32_MAX, description="an integer above 0")
    repetition_penalty: float | None = Field(None, gt=0, description="a number above 0")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="a number from -2 to 2")
    do_sample: bool | None = Field(None, description="true or false")
    seed: int | None = Field(None, ge=0, le=U64_MAX, description="an integer from 0 to 2^64 - 1")
    stop: tuple[StopSequence, ...] | None = Field(
        None,
        max_length=MAX_STOP_SEQUENCES,
        strict=False,
        description=f"a list of at most {MAX_STOP_SEQUENCES} non-empty strings",
    )
    truncate: int | None = Field(None, gt=0, description="an integer above 0")
    best_of: int | None = Field(None, ge=1, le=MAX_BEST_OF, description=f"1 or {MAX_BEST_OF}")
    watermark: bool | None = Field(None, description="true or false")
    details: bool | None = Field(None, description="true or false")
    decoder_input_details: bool | None = Field(None, description="true or false")
    top_n_tokens: int | None = Field(
        None, ge=0, le=MAX_TOP_N_TOKENS, description=f"an integer from 0 to {MAX_TOP_N_TOKENS}"
    )
    return_full_text: bool | None = Field(None, description="true or false")
    grammar: Grammar | None = Field(None, description='an object {"type": "json" or "regex", "value": …}')
    adapter_id: str | None = Field(None, min_length=1, description="the name of an adapter")


NAMES = tuple(Parameters.model_fields)
IN_EVERY_CHAT = frozenset(
    {"max_new_tokens", "temperature", "top_p", "frequency_penalty", "do_sample", "seed", "stop"}
)
"""What the chat routes of all engines take."""

HINTS = {
    "temperature": "For greedy decoding leave temperature out, or set do_sample to false.",
    "top_p": "To switch top_p off, leave it out.",
    "typical_p": "To switch typical_p off, leave it out.",
    "top_k": "To switch top_k off, leave it out.",
    "max_new_tokens": "Leave it out for as many tokens as the model's context has room for.",
}

_SAMPLING = ("temperature", "top_p", "top_k", "typical_p")


def combine(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge parameter layers, weakest first. Only set values remain.

    ``do_sample: false`` in a layer removes sampling values that weaker layers brought: TGI samples as
    soon as one of them is present, whatever ``do_sample`` says.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        if not layer:
            continue
        present = {name: value for name, value in layer.items() if value is not None}
        if present.get("do_sample") is False:
            for name in _SAMPLING:
                merged.pop(name, None)
        merged |= present
    return merged


def given_in(parameters: Parameters) -> dict[str, Any]:
    """Those that are set, as they go to an engine."""
    if parameters.grammar is not None:
        return parameters.model_dump(exclude_none=True)
    return {name: value for name, value in parameters.__dict__.items() if value is not None}


def for_chat(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Of the defaults of a model or a scenario those that every engine's chat route takes."""
    return {name: value for name, value in defaults.items() if name in IN_EVERY_CHAT}


def check_together(parameters: Mapping[str, Any], *, stream: bool) -> None:
    """Rules that concern several parameters, or a parameter and the way of answering.

    Raises InvalidRequest naming the field.
    """
    best_of = parameters.get("best_of") or 1
    if best_of > 1 and stream:
        raise _broken("best_of", "cannot be used in a stream", "Leave it out, or set stream to false.")
    if best_of > 1 and parameters.get("seed") is not None:
        raise _broken("seed", "must not be set when best_of is above 1", "Leave one of the two out.")
    if best_of > 1 and not samples(parameters):
        raise _broken("best_of", "needs sampling", "Set do_sample to true.")
    if parameters.get("decoder_input_details") and stream:
        hint = "Leave it out, or set stream to false."
        raise _broken("decoder_input_details", "cannot be used in a stream", hint)


def samples(parameters: Mapping[str, Any]) -> bool:
    """Whether an engine will draw from the distribution instead of taking the likeliest token."""
    if parameters.get("do_sample"):
        return True
    return any(parameters.get(name) not in (None, 1.0) for name in _SAMPLING)


def streamable(parameters: Mapping[str, Any]) -> bool:
    """Whether an engine can stream the answer (TGI cannot for these two)."""
    return (parameters.get("best_of") or 1) == 1 and not parameters.get("decoder_input_details")


def _broken(name: str, rule: str, hint: str) -> InvalidRequest:
    return InvalidRequest(f"parameters.{name} {rule}.", field=f"parameters.{name}", hint=hint)
