"""The native dialect on the fast path."""

from __future__ import annotations

from pydantic_core import to_json

from gateway.answers import Answer
from gateway.api import native
from gateway.api.bodies import parse
from gateway.api.native import GenerateBody
from gateway.api.receipt_lines import header_lines, receipt_lines
from gateway.api.receipts import origin_headers
from gateway.api.streams import SSE_HEADERS
from gateway.errors import GatewayError
from gateway.fastpath.means import Means
from gateway.fastpath.wishes import Head, Wish
from gateway.fastpath.written_wish import WrittenWish
from gateway.preparing import GenerationRequest
from gateway.routing import DIRECT, Who


class NativeWish(WrittenWish):
    """``POST /v1/generate``."""

    __slots__ = ("_request_id",)

    def __init__(self, asked: GenerationRequest, request_id: str) -> None:
        super().__init__(asked, native.EventWriter(request_id))
        self._request_id = request_id

    def plain(self, answer: Answer) -> tuple[bytes, str]:
        return to_json(native.answer_body(answer, self._request_id)), receipt_lines(answer)

    def opening(self, model_id: str) -> str:
        return header_lines({**SSE_HEADERS, **origin_headers(model_id, DIRECT)})

    def error(self, error: GatewayError) -> bytes:
        return native.error_event(error, self._request_id)


def generate(head: Head, raw: bytes, means: Means) -> Wish | None:
    """``POST /v1/generate``."""
    body = parse(raw, GenerateBody)
    if body.fallback:
        return None
    spec = means.generations.routing.direct(body.model_id)
    if spec is None:
        return None
    return NativeWish(native.asked_for(body, head.started, Who(spec)), head.request_id)
