"""TGI's own routes on the fast path."""

from __future__ import annotations

from typing import Final

from pydantic_core import to_json

from gateway.answers import Answer
from gateway.api import tgi, tgi_answers
from gateway.api.names import model_asked
from gateway.api.receipt_lines import header_lines
from gateway.api.streams import SSE_HEADERS
from gateway.api.tgi_requests import request_for
from gateway.errors import GatewayError
from gateway.fastpath.means import Means
from gateway.fastpath.tails import Tail, Tails
from gateway.fastpath.wishes import Head, Wish
from gateway.fastpath.written_wish import WrittenWish
from gateway.preparing import GenerationRequest
from gateway.routing import DIRECT, Who

MODEL_HEADER: Final = tgi.MODEL_HEADER.encode()


class TgiWish(WrittenWish):
    """One request for text."""

    __slots__ = ("_inputs", "_tail")

    def __init__(self, inputs: str, tail: Tail, asked: GenerationRequest) -> None:
        super().__init__(asked, tgi_answers.EventWriter(details=tail.details))
        self._inputs = inputs
        self._tail = tail

    def said(self) -> bytes | None:
        return self._tail.said

    def plain(self, answer: Answer) -> tuple[bytes, str]:
        body = b'{"generated_text":%b}' % to_json(answer.text)
        return body, tgi_answers.answer_lines(self._inputs, answer)

    def opening(self, model_id: str) -> str:
        return header_lines({**SSE_HEADERS, **tgi_answers.stream_headers(self._inputs, model_id, DIRECT)})

    def error(self, error: GatewayError) -> bytes:
        return tgi_answers.error_event(error)


class TgiRoutes:
    """Both of them. Remembers the ends of bodies."""

    def __init__(self) -> None:
        self._tails = Tails()

    def whole(self, head: Head, raw: bytes, means: Means) -> Wish | None:
        """``POST /generate``. With details each token is wanted, and then nothing is gained here."""
        inputs, tail = self._tails.read(raw)
        return None if tail.details else _wish(head, inputs, tail, means, stream=False)

    def stream(self, head: Head, raw: bytes, means: Means) -> Wish | None:
        """``POST /generate_stream``."""
        inputs, tail = self._tails.read(raw)
        return _wish(head, inputs, tail, means, stream=True)


def _wish(head: Head, inputs: str, tail: Tail, means: Means, *, stream: bool) -> Wish | None:
    routing, given = means.generations.routing, head.known.headers.get(MODEL_HEADER)
    name = None if given is None else model_asked(given.decode("latin-1"), routing.names)
    spec = routing.direct(name)
    if spec is None:
        return None
    return TgiWish(inputs, tail, request_for(inputs, tail.given, Who(spec), head.started, stream=stream))
