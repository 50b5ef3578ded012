"""Refusals and failures of engines behind OpenAI's routes, in all their shapes, as ours.

OpenAI's envelope is ``{"error": {"message", "type", "code", "param"}}``. vLLM (before 0.11) and SGLang write
the same without the wrapping, Ollama's other routes a bare text, web frameworks ``{"detail": …}``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.errors import EngineError, GatewayError, InvalidRequest
from gateway.upstream import refusals
from gateway.upstream.base import SuspectEngineError
from gateway.upstream.exchange import Answer
from gateway.upstream.openai_flavours import ALL, OPENAI_FIELDS

_TOO_LONG: Final = re.compile(
    r"context (?:length|size|window)|maximum (?:model|context) length|too long", re.IGNORECASE
)
_INVALID: Final = frozenset(
    {"invalid_request_error", "badrequesterror", "exceed_context_size_error", "valueerror", "bad_request"}
)
_FIELDS: Final = {
    theirs: f"parameters.{ours}"
    for names in (OPENAI_FIELDS, *(one.fields for one in ALL))
    for ours, theirs in names.items()
} | {"prompt": "inputs", "stop": "parameters.stop"}


def is_error(event: Mapping[str, Any]) -> bool:
    return bool(event.get("error")) or event.get("object") == "error"


def error_of_event(event: Mapping[str, Any], address: str, prompt: str, pieces: int = 0) -> GatewayError:
    """The error that came as an event of a stream, after ``pieces`` pieces."""
    error = _error_in(event)
    said = refusals.quotable(_said(error), prompt)
    if known := _known(_status(error), error, said, address):
        return known
    after = f" after {pieces} pieces" if pieces else ""
    failure = SuspectEngineError if pieces else EngineError
    return failure(f"the engine at {address} reported an error{after}: {said or 'no reason given'}")


def error_of_answer(answer: Answer, address: str, prompt: str = "") -> GatewayError:
    """The error for an answer whose status is not 200."""
    body, plain = refusals.json_or_text(answer)
    error = _error_in(body)
    said = refusals.quotable(_said(error) or plain, prompt)
    return _known(answer.status, error, said, address) or refusals.of_status(answer.status, said, address)


def _error_in(body: Mapping[str, Any]) -> Mapping[str, Any]:
    error = body.get("error")
    if isinstance(error, dict):
        return error
    return {**body, "message": error} if isinstance(error, str) else body


def _said(error: Mapping[str, Any]) -> str:
    return refusals.text_of(error.get("message")) or refusals.text_of(error.get("detail"))


def _status(error: Mapping[str, Any]) -> int:
    """The HTTP status that an event would have had; 0 when it does not say."""
    code = error.get("code")
    if isinstance(code, int):
        return code
    return 400 if refusals.text_of(error.get("type")).lower() in _INVALID else 0


def _known(status: int, error: Mapping[str, Any], said: str, address: str) -> GatewayError | None:
    if status in {400, 422}:
        return _invalid(error, said)
    if status == 404 and said and "model" in said.lower():
        return EngineError(
            f"{address} does not know the model: {said}",
            hint="Correct the model's name at the end of its url in the registry.",
        )
    make = _BY_STATUS.get(status)
    return make(said, address) if make else None


def _invalid(error: Mapping[str, Any], said: str) -> GatewayError:
    too_long = "context" in f"{error.get('type')} {error.get('code')}" or _TOO_LONG.search(said)
    field = "inputs" if too_long else _FIELDS.get(refusals.text_of(error.get("param")))
    hint = "Shorten inputs, or lower max_new_tokens." if too_long else None
    return InvalidRequest(
        f"the engine refuses the request: {said or 'no reason given'}", field=field, hint=hint
    )


def _not_there(_said: str, address: str) -> GatewayError:
    return refusals.not_there("an engine with OpenAI's routes", address)


_BY_STATUS: Final[Mapping[int, Callable[[str, str], GatewayError]]] = {
    **refusals.BY_STATUS,
    404: _not_there,
    405: _not_there,
    500: refusals.failed,
}
