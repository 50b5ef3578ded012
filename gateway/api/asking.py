"""Whom a request asks for, in every dialect: its keys for sticky splits, its fallbacks, and who then answers.

What is said to this gateway by name counts more than what clients send to everybody: of the session keys the
native field comes first, then our header, then the dialect's own field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import Request

from gateway.answers import Answer
from gateway.api.bodies import cut_name
from gateway.api.receipts import origin_body
from gateway.api.services import services_of
from gateway.errors import InvalidRequest
from gateway.routing import Asked, Origin, Who

SESSION_HEADER: Final = "x-gateway-session"
FALLBACK_HEADER: Final = "x-gateway-fallback"
NOBODY: Final = "none"
"""As the only name in the header: no fallback, whatever the alias says."""
MAX_FALLBACKS: Final = 8


def asked_of(
    request: Request,
    name: str | None,
    *,
    session: str | None = None,
    fallback: tuple[str, ...] | None = None,
    metadata: object = None,
    user: object = None,
) -> Asked:
    """Whom ``request`` asks for. ``session`` and ``fallback`` are our own fields of a body.

    ``metadata`` and ``user`` are those of other dialects: what is no text in them is no key. Raises
    InvalidRequest for a header that cannot be read.
    """
    known: Mapping[Any, Any] = metadata if isinstance(metadata, Mapping) else {}
    header = request.headers.get(SESSION_HEADER)
    return Asked(
        name,
        session=session or header or _text(known.get("session_id")),
        user=_text(user) or _text(known.get("user_id")),
        fallback=fallback if fallback is not None else _fallback(request.headers.get(FALLBACK_HEADER)),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _fallback(header: str | None) -> tuple[str, ...] | None:
    if header is None:
        return None
    names = tuple(cut_name(name.strip()) for name in header.split(",") if name.strip())
    if len(names) > MAX_FALLBACKS:
        raise InvalidRequest(
            f"The header {FALLBACK_HEADER} names {len(names)} models; at most {MAX_FALLBACKS} are asked.",
            field="fallback",
        )
    return () if names == (NOBODY,) else names


def who_answers(request: Request, asked: Asked) -> Who:
    """Who answers this request. Raises ModelNotFound and InvalidRequest."""
    who = services_of(request).generations.routing.draw(asked)
    note(request, who.spec.id, who.origin)
    return who


def note(request: Request, model_id: str, origin: Origin, **more: object) -> None:
    """What the log says of a request: who answers, and why that one."""
    request.state.log = {"model": model_id, **origin_body(origin), **more}


def note_answer(request: Request, answer: Answer) -> None:
    note(request, answer.model_id, answer.origin, tokens=answer.completion_tokens)
