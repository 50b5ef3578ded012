"""TGI's bodies: what a generate request may hold, its rules, and the bytes of answers and events.

The rules and their sentences are those of text-generation-inference 3.3; where its OpenAPI page and its
behaviour differ, the behaviour is followed. Nothing here does I/O.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

KEEP_ALIVE = b":\n\n"
"""The comment that TGI sends after 15 s without an event."""
KEEP_ALIVE_S = 15.0
GENERATION_SLICE = 1024
"""TGI validates at most this many of ``max_new_tokens``; more is run in slices and ends with ``length``."""

FinishReason = Literal["length", "eos_token", "stop_sequence"]
UInt32 = Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)]
UInt64 = Annotated[int, Field(strict=True, ge=0, le=2**64 - 1)]
Int32 = Annotated[int, Field(strict=True, ge=-(2**31), le=2**31 - 1)]
Float = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Bool = Annotated[bool, Field(strict=True)]
Str = Annotated[str, Field(strict=True)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Grammar(_Body):
    type: Literal["json", "regex", "json_schema"]
    value: Any


class GenerateParameters(_Body):
    """``parameters`` of a generate request. Switches and ``stop`` cannot be null, as in TGI."""

    best_of: UInt64 | None = None
    temperature: Float | None = None
    repetition_penalty: Float | None = None
    frequency_penalty: Float | None = None
    top_k: Int32 | None = None
    top_p: Float | None = None
    typical_p: Float | None = None
    do_sample: Bool = False
    max_new_tokens: UInt32 | None = None
    return_full_text: Bool | None = None
    stop: list[Str] = Field(default_factory=list)
    truncate: UInt64 | None = None
    watermark: Bool = False
    details: Bool = False
    decoder_input_details: Bool = False
    seed: UInt64 | None = None
    top_n_tokens: UInt32 | None = None
    grammar: Grammar | None = None
    adapter_id: Str | None = None

    @property
    def samples(self) -> bool:
        """Whether logits are sampled: asked for outright, or implied by a value that only sampling has."""
        warped = self.temperature is not None and self.temperature != 1.0
        others = (self.top_k, self.top_p, self.typical_p)
        return self.do_sample or warped or any(value is not None for value in others)


class GenerateRequest(_Body):
    """Body of ``/generate``, ``/generate_stream`` and, with ``stream``, of ``POST /``."""

    inputs: Str
    # Without any parameters TGI samples; with an empty object it does not.
    parameters: GenerateParameters = Field(default_factory=lambda: GenerateParameters(do_sample=True))
    stream: Bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """What one TGI instance accepts per request."""

    max_input_tokens: int
    max_total_tokens: int
    max_concurrent_requests: int = 128
    max_best_of: int = 2
    max_stop_sequences: int = 4
    max_top_n_tokens: int = 5


def violation(parameters: GenerateParameters, limits: Limits, *, stream: bool) -> str | None:
    """TGI's sentence about the first rule that the parameters break, or None.

    Lengths need a tokenizer: ``length_violation``.
    """
    return _best_of_violation(parameters, limits, stream) or _value_violation(parameters, limits)


def _best_of_violation(p: GenerateParameters, limits: Limits, stream: bool) -> str | None:
    best_of = 1 if p.best_of is None else p.best_of
    if best_of < 1 or best_of > limits.max_best_of:
        return f"`best_of` must be > 0 and <= {limits.max_best_of}. Given: {best_of}"
    if best_of > 1 and stream:
        return "`best_of` != 1 is not allowed when streaming tokens"
    if best_of > 1 and not (p.samples or p.temperature is not None):
        return "you must use sampling when `best_of` is > 1"
    if best_of > 1 and p.seed is not None:
        return "`seed` must not be set when `best_of` > 1"
    if p.decoder_input_details and stream:
        return "`decoder_input_details` == true is not allowed when streaming tokens"
    return None


def _value_violation(p: GenerateParameters, limits: Limits) -> str | None:
    most = limits.max_input_tokens
    rules: tuple[tuple[bool, str], ...] = (
        (_given(p.temperature) and not _of(p.temperature) > 0, "`temperature` must be strictly positive"),
        (
            _given(p.repetition_penalty) and not _of(p.repetition_penalty) > 0,
            "`repetition_penalty` must be strictly positive",
        ),
        (
            _given(p.frequency_penalty) and not -2.0 <= _of(p.frequency_penalty) <= 2.0,
            "`frequency_penalty` must be >= -2.0 and <= 2.0",
        ),
        (_given(p.top_p) and not 0 < _of(p.top_p) < 1, "`top_p` must be > 0.0 and < 1.0"),
        (_given(p.typical_p) and not 0 < _of(p.typical_p) < 1, "`typical_p` must be > 0.0 and < 1.0"),
        (_given(p.top_k) and not _of(p.top_k) > 0, "`top_k` must be strictly positive"),
        (p.max_new_tokens == 0, "`max_new_tokens` must be strictly positive"),
        (
            len(p.stop) > limits.max_stop_sequences,
            f"`stop` supports up to {limits.max_stop_sequences} stop sequences. Given: {len(p.stop)}",
        ),
        (
            _of(p.top_n_tokens) > limits.max_top_n_tokens,
            f"`top_n_tokens` must be >= 0 and <= {limits.max_top_n_tokens}. Given: {p.top_n_tokens}",
        ),
        (
            p.truncate is not None and not 0 < p.truncate <= most,
            f"`truncate` must be strictly positive and less than {most}. Given: {p.truncate}",
        ),
    )
    return next((sentence for broken, sentence in rules if broken), None)


def _given(value: float | None) -> bool:
    return value is not None


def _of(value: float | None) -> float:
    return 0.0 if value is None else value


def length_violation(input_tokens: int, max_new_tokens: int | None, limits: Limits) -> str | None:
    """TGI's sentence about a request that is too long, or None. ``truncate`` has been applied."""
    if input_tokens > limits.max_input_tokens:
        return f"`inputs` must have less than {limits.max_input_tokens} tokens. Given: {input_tokens}"
    left = limits.max_total_tokens - input_tokens
    wanted = left if max_new_tokens is None else min(max_new_tokens, GENERATION_SLICE)
    if wanted > left or wanted < 1:
        return (
            f"`inputs` tokens + `max_new_tokens` must be <= {limits.max_total_tokens}. "
            f"Given: {input_tokens} `inputs` tokens and {wanted} `max_new_tokens`"
        )
    return None


def tokens_to_generate(input_tokens: int, max_new_tokens: int | None, limits: Limits) -> int:
    """How many tokens a valid request may get: asked for, or all that is left."""
    left = limits.max_total_tokens - input_tokens
    return left if max_new_tokens is None else min(max_new_tokens, left)


def token_body(token_id: int, text: str, logprob: float | None, *, special: bool) -> dict[str, Any]:
    return {"id": token_id, "text": text, "logprob": logprob, "special": special}


def stream_event(
    index: int,
    token: Mapping[str, Any],
    *,
    top_tokens: Iterable[Mapping[str, Any]] | None = None,
    generated_text: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> bytes:
    """One event of ``/generate_stream``, byte for byte. ``index`` counts from 1."""
    body: dict[str, Any] = {"index": index, "token": token}
    if top_tokens is not None:
        body["top_tokens"] = list(top_tokens)
    body["generated_text"] = generated_text
    body["details"] = details
    return data_event(body)


def error_body(message: str, error_type: str) -> dict[str, str]:
    return {"error": message, "error_type": error_type}


def data_event(body: object) -> bytes:
    """``data: `` with one space, compact JSON on one line, an empty line."""
    return b"data: " + compact_json(body) + b"\n\n"


def compact_json(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
