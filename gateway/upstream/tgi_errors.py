"""TGI's refusals and failures, in all their shapes, as ours.

TGI answers with JSON, with plain text, with nothing at all, or with status 200 and an error event; proxies
in front of it answer with pages. What it says is quoted only as far as it does not repeat the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Final

from gateway.errors import EngineError, GatewayError, InvalidRequest, Overloaded, PayloadTooLarge
from gateway.upstream.base import EngineUnreachable, SuspectEngineError
from gateway.upstream.exchange import Answer

_QUOTE_CHARACTERS: Final = 400
_PROMPT_WINDOW: Final = 24
_PREFIXES: Final = ("Input validation error: ", "Request failed during generation: ")
_VALIDATION: Final = frozenset(
    {"validation", "template_error", "missing_template_variable", "tool_error", "batch size exceeded"}
)
_FAILED: Final = frozenset(
    {"generation", "incomplete_generation", "incomplete_generation_stream", "stream_serialization_error"}
)
# `temperature` in TGI's own checks; "parameters.top_k: invalid type" in those of its JSON reader.
_FIELD: Final = re.compile(r"`(?P<named>\w+)`|\b(?P<path>parameters\.\w+|inputs)\b")


def error_of_event(event: Mapping[str, object], address: str, prompt: str, tokens: int = 0) -> GatewayError:
    """The error in ``{"error": …, "error_type": …}`` that came as an event, after ``tokens`` tokens."""
    said = _quotable(_text(event.get("error")), prompt)
    kind = _text(event.get("error_type"))
    if known := _of_type(kind, said, address):
        return known
    after = f" after {tokens} tokens" if tokens else ""
    return EngineError(f"the engine at {address} reported an error{after}: {said}")


def error_of_answer(answer: Answer, address: str, prompt: str = "") -> GatewayError:
    """The error for an answer whose status is not 200."""
    said, kind = _read(answer)
    said = _quotable(said, prompt)
    if known := _of_type(kind, said, address):
        return known
    if make := _BY_STATUS.get(answer.status):
        return make(said, address)
    error = SuspectEngineError if answer.status == 500 else EngineError
    return error(f"{address} answered with status {answer.status}{': ' if said else ''}{said}")


def _of_type(kind: str, said: str, address: str) -> GatewayError | None:
    if kind in _VALIDATION:
        return _invalid(said, address)
    if kind == "overloaded":
        return _overloaded(said, address)
    if kind in _FAILED:
        return _failed(said, address)
    if kind == "healthcheck":
        return _unavailable(said, address)
    return None


def _invalid(said: str, address: str) -> GatewayError:
    found = _FIELD.search(said)
    field = (found["named"] or found["path"]) if found else None
    if field and field != "inputs" and "." not in field:
        field = f"parameters.{field}"
    hint = None
    if "max_new_tokens" in said and "inputs" in said:
        hint = "Shorten inputs, or lower max_new_tokens."
    return InvalidRequest(
        f"the engine refuses the request: {said or 'no reason given'}", field=field, hint=hint
    )


def _overloaded(_said: str, address: str) -> GatewayError:
    return Overloaded(f"the engine at {address} has all the requests that it takes", hint="Try again later.")


def _failed(said: str, address: str) -> GatewayError:
    return SuspectEngineError(
        f"the engine at {address} failed while generating: {said or 'no reason given'}",
        hint="It may be out of memory and about to restart: look at its log, and try again.",
    )


def _unavailable(said: str, address: str) -> GatewayError:
    return EngineUnreachable(
        f"{address} says that the engine is not available{': ' if said else ''}{said}",
        hint="It may still be loading, or have stopped: look at the model's state and the engine's log.",
    )


def _too_large(_said: str, address: str) -> GatewayError:
    return PayloadTooLarge(
        f"the request is larger than {address} takes",
        field="inputs",
        hint="Shorten inputs, or raise the engine's --payload-limit.",
    )


def _wants_key(_said: str, address: str) -> GatewayError:
    return EngineError(
        f"{address} wants a key of its own",
        hint="Start the engine without --api-key: the gateway's keys are what protects it.",
    )


def _not_there(_said: str, address: str) -> GatewayError:
    return EngineError(
        f"{address} does not exist there: is this a TGI engine?",
        hint="Check the address and the engine kind of this model in the registry.",
    )


_BY_STATUS: Final[Mapping[int, Callable[[str, str], GatewayError]]] = {
    401: _wants_key,
    403: _wants_key,
    404: _not_there,
    405: _not_there,
    413: _too_large,
    422: _invalid,
    424: _failed,
    429: _overloaded,
    502: _unavailable,
    503: _unavailable,
    504: _unavailable,
}


def _read(answer: Answer) -> tuple[str, str]:
    """The engine's words and its error type, both possibly empty. Pages for browsers are not quoted."""
    try:
        body = json.loads(answer.body)
    except ValueError:
        if answer.headers.get("content-type", "").startswith("text/plain"):
            return answer.body.decode("utf-8", "replace"), ""
        return "", ""
    if not isinstance(body, dict):
        return "", ""
    return _text(body.get("error")), _text(body.get("error_type"))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _quotable(said: str, prompt: str) -> str:
    """``said`` on one line of bearable length, or nothing when it repeats a part of the prompt."""
    for prefix in _PREFIXES:
        said = said.removeprefix(prefix)
    said = " ".join(said.split())
    if repeats(said, prompt):
        return "(not shown: it repeats the prompt)"
    return said if len(said) <= _QUOTE_CHARACTERS else said[:_QUOTE_CHARACTERS] + "…"


def repeats(said: str, prompt: str) -> bool:
    """Whether a stretch of ``prompt`` (white space aside) is in the part of ``said`` that would be quoted."""
    prompt = " ".join(prompt.split())
    size = min(_PROMPT_WINDOW, len(prompt))
    if size < 4:
        return False
    said = said[:_QUOTE_CHARACTERS]
    return any(said[at : at + size] in prompt for at in range(len(said) - size + 1))
