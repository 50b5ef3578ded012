"""TGI's refusals and failures, in all their shapes, as ours.

TGI answers with JSON, with plain text, with nothing at all, or with status 200 and an error event; proxies
in front of it answer with pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from gateway.errors import EngineError, GatewayError, InvalidRequest
from gateway.upstream import refusals
from gateway.upstream.exchange import Answer

_PREFIXES: Final = ("Input validation error: ", "Request failed during generation: ")
_VALIDATION: Final = frozenset(
    {"validation", "template_error", "missing_template_variable", "tool_error", "batch size exceeded"}
)
_OPENINGS: Final = {
    "Input validation error": "validation",
    "Request failed during generation": "generation",
    "Model is overloaded": "overloaded",
    "Incomplete generation": "incomplete_generation",
    "Template error": "template_error",
    "Missing template vatiable": "missing_template_variable",  # as TGI spells it
    "Tool error": "tool_error",
}
_FAILED: Final = frozenset(
    {"generation", "incomplete_generation", "incomplete_generation_stream", "stream_serialization_error"}
)
# `temperature` in TGI's own checks; "parameters.top_k: invalid type" in those of its JSON reader.
_FIELD: Final = re.compile(r"`(?P<named>\w+)`|\b(?P<path>parameters\.\w+|inputs)\b")


def error_of_event(event: Mapping[str, object], address: str, prompt: str, tokens: int = 0) -> GatewayError:
    """The error in ``{"error": …, "error_type": …}`` that came as an event, after ``tokens`` tokens."""
    said = _quotable(refusals.text_of(event.get("error")), prompt)
    kind = refusals.text_of(event.get("error_type"))
    if known := _of_type(kind, said, address):
        return known
    after = f" after {tokens} tokens" if tokens else ""
    return EngineError(f"the engine at {address} reported an error{after}: {said}")


def error_of_chat_event(
    event: Mapping[str, object], address: str, prompt: str, pieces: int = 0
) -> GatewayError:
    """The error that came as an event of the chat route.

    There TGI says 422 whatever has happened; what it was is in the words that its sentence begins with.
    """
    inner = event.get("error")
    error = inner if isinstance(inner, dict) else event
    said = refusals.text_of(error.get("message")) or refusals.text_of(inner)
    kind = next((kind for opening, kind in _OPENINGS.items() if said.startswith(opening)), "")
    given = refusals.text_of(error.get("error_type")) or kind
    return error_of_event({"error": said, "error_type": given}, address, prompt, pieces)


def error_of_answer(answer: Answer, address: str, prompt: str = "") -> GatewayError:
    """The error for an answer whose status is not 200."""
    body, plain = refusals.json_or_text(answer)
    said = _quotable(refusals.text_of(body.get("error")) or plain, prompt)
    if known := _of_type(refusals.text_of(body.get("error_type")), said, address):
        return known
    if make := _BY_STATUS.get(answer.status):
        return make(said, address)
    return refusals.of_status(answer.status, said, address)


def _of_type(kind: str, said: str, address: str) -> GatewayError | None:
    if kind in _VALIDATION:
        return _invalid(said, address)
    if kind == "overloaded":
        return refusals.overloaded(said, address)
    if kind in _FAILED:
        return refusals.failed(said, address)
    if kind == "healthcheck":
        return refusals.unavailable(said, address)
    return None


def _invalid(said: str, address: str) -> GatewayError:
    found = _FIELD.search(said)
    field = (found["named"] or found["path"]) if found else None
    if field and field != "inputs" and "." not in field:
        field = f"parameters.{field}"
    if field is None and "grammar" in said.lower():
        field = "parameters.grammar"
    hint = None
    if "max_new_tokens" in said and "inputs" in said:
        hint = "Shorten inputs, or lower max_new_tokens."
    return InvalidRequest(
        f"the engine refuses the request: {said or 'no reason given'}", field=field, hint=hint
    )


def _not_there(_said: str, address: str) -> GatewayError:
    return refusals.not_there("a TGI engine", address)


_BY_STATUS: Final[Mapping[int, Callable[[str, str], GatewayError]]] = {
    **refusals.BY_STATUS,
    404: _not_there,
    405: _not_there,
    422: _invalid,
    424: refusals.failed,
}


def _quotable(said: str, prompt: str) -> str:
    for prefix in _PREFIXES:
        said = said.removeprefix(prefix)
    return refusals.quotable(said, prompt)
