"""What engines of every kind refuse or fail with, as our errors.

What an engine says is quoted only as far as it does not repeat the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.errors import EngineError, GatewayError, Overloaded, PayloadTooLarge
from gateway.upstream.base import EngineUnreachable, SuspectEngineError
from gateway.upstream.exchange import Answer

_QUOTE_CHARACTERS: Final = 400
_PROMPT_WINDOW: Final = 24


def overloaded(_said: str, address: str) -> GatewayError:
    return Overloaded(f"the engine at {address} has all the requests that it takes", hint="Try again later.")


def failed(said: str, address: str) -> GatewayError:
    return SuspectEngineError(
        f"the engine at {address} failed while generating: {said or 'no reason given'}",
        hint="It may be out of memory and about to restart: look at its log, and try again.",
    )


def unavailable(said: str, address: str) -> GatewayError:
    return EngineUnreachable(
        f"{address} says that the engine is not available{': ' if said else ''}{said}",
        hint="It may still be loading, or have stopped: look at the model's state and the engine's log.",
    )


def too_large(_said: str, address: str) -> GatewayError:
    return PayloadTooLarge(
        f"the request is larger than {address} takes",
        field="inputs",
        hint="Shorten inputs, or raise the engine's --payload-limit.",
    )


def wants_key(_said: str, address: str) -> GatewayError:
    return EngineError(
        f"{address} wants a key of its own",
        hint="Start the engine without --api-key: the gateway's keys are what protects it.",
    )


def not_there(engine: str, address: str) -> GatewayError:
    return EngineError(
        f"{address} does not exist there: is this {engine}?",
        hint="Check the address and the engine kind of this model in the registry.",
    )


BY_STATUS: Final[Mapping[int, Callable[[str, str], GatewayError]]] = {
    401: wants_key,
    403: wants_key,
    413: too_large,
    429: overloaded,
    502: unavailable,
    503: unavailable,
    504: unavailable,
}
"""What means the same whoever says it; each takes what was said, and the address."""


def of_status(status: int, said: str, address: str) -> GatewayError:
    """The error for a status that has no meaning of its own."""
    error = SuspectEngineError if status == 500 else EngineError
    return error(f"{address} answered with status {status}{': ' if said else ''}{said}")


def json_or_text(answer: Answer) -> tuple[dict[str, Any], str]:
    """The object that the engine sent, or its plain text; pages for browsers are not quoted."""
    try:
        body = json.loads(answer.body)
    except ValueError:
        plain = answer.headers.get("content-type", "").startswith("text/plain")
        return {}, answer.body.decode("utf-8", "replace") if plain else ""
    return (body, "") if isinstance(body, dict) else ({}, "")


def text_of(value: object) -> str:
    """``value`` when it is a text, otherwise nothing."""
    return value if isinstance(value, str) else ""


def quotable(said: str, prompt: str) -> str:
    """``said`` on one line of bearable length, or nothing when it repeats a part of the prompt."""
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
