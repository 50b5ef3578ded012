"""Routes as the figures name them: few and short, whatever clients send."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_MODEL = re.compile(r"^/models/\{[^}]*\}(?=/|$)")
_PARAMETER = re.compile(r"/\{[^}]*\}")
NO_ROUTE: Final = "none"

GENERATIONS: Final = frozenset(
    {
        "generate",
        "chat_completions",
        "completions",
        "messages",
        "tgi",
        "tgi_generate",
        "tgi_generate_stream",
        "tgi_invocations",
    }
)
"""Routes that ask for a generation."""


@lru_cache(maxsize=256)
def route_label(method: str, pattern: str) -> str:
    """``/v1/chat/completions`` is ``chat_completions``; TGI's own routes begin with ``tgi``.

    A model's own address counts with the route that it has in common with others.
    """
    if not pattern or pattern == NO_ROUTE:
        return NO_ROUTE
    path = _MODEL.sub("", pattern)
    path, ours = (path[3:], True) if path.startswith("/v1/") else (path, False)
    name = _PARAMETER.sub("", path).strip("/").replace("/", "_")
    if ours or (method != "POST" and name):
        return name
    if method != "POST":
        return "health"
    return f"tgi_{name}" if name else "tgi"
