"""The routes of the fast path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.fastpath import wish_anthropic, wish_native, wish_openai, wish_tgi
from gateway.fastpath.wishes import Read

ROUTES: Final = frozenset(
    {
        b"/generate",
        b"/generate_stream",
        b"/v1/generate",
        b"/v1/chat/completions",
        b"/v1/completions",
        b"/v1/messages",
    }
)
"""Their paths, as they are written."""


def readers() -> Mapping[bytes, Read]:
    """Who reads the bodies of each, for one fast path."""
    tgi = wish_tgi.TgiRoutes()
    return {
        b"/generate": tgi.whole,
        b"/generate_stream": tgi.stream,
        b"/v1/generate": wish_native.generate,
        b"/v1/chat/completions": wish_openai.chat,
        b"/v1/completions": wish_openai.completion,
        b"/v1/messages": wish_anthropic.messages,
    }
