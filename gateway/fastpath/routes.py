"""The routes of the fast path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.fastpath import wish_anthropic, wish_native, wish_openai, wish_tgi
from gateway.fastpath.wishes import Read

ROUTES: Final[Mapping[bytes, Read]] = {
    b"/generate": wish_tgi.whole,
    b"/generate_stream": wish_tgi.stream,
    b"/v1/generate": wish_native.generate,
    b"/v1/chat/completions": wish_openai.chat,
    b"/v1/completions": wish_openai.completion,
    b"/v1/messages": wish_anthropic.messages,
}
"""By path, as it is written."""
