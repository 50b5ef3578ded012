"""TGI's own routes on the fast path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic_core import to_json

from gateway.answers import Answer
from gateway.api import tgi, tgi_answers
from gateway.api.bodies import parse
from gateway.api.names import model_asked
from gateway.api.streams import SSE_HEADERS
from gateway.api.tgi_bodies import TgiBody
from gateway.errors import GatewayError
from gateway.fastpath.means import Means
from gateway.fastpath.wishes import Head, Wish
from gateway.fastpath.written_wish import WrittenWish
from gateway.preparing import GenerationRequest
from gateway.routing import DIRECT, Who

MODEL_HEADER: Final = tgi.MODEL_HEADER.encode()


class TgiWish(WrittenWish):
    """One request for text."""

    __slots__ = ("_body",)

    def __init__(self, body: TgiBody, asked: GenerationRequest) -> None:
        super().__init__(asked, tgi_answers.EventWriter(details=tgi_answers.details_asked(body)))
        self._body = body

    def plain(self, answer: Answer) -> tuple[bytes, Mapping[str, str]]:
        return to_json({"generated_text": answer.text}), tgi_answers.answer_headers(self._body, answer)

    def opening(self, model_id: str) -> Mapping[str, str]:
        return {**SSE_HEADERS, **tgi_answers.stream_headers(self._body, model_id, DIRECT)}

    def error(self, error: GatewayError) -> bytes:
        return tgi_answers.error_event(error)


def whole(head: Head, raw: bytes, means: Means) -> Wish | None:
    """``POST /generate``. With details each token is wanted, and then nothing is gained here."""
    body = parse(raw, TgiBody)
    return None if tgi_answers.details_asked(body) else _wish(head, body, means, stream=False)


def stream(head: Head, raw: bytes, means: Means) -> Wish | None:
    """``POST /generate_stream``."""
    return _wish(head, parse(raw, TgiBody), means, stream=True)


def _wish(head: Head, body: TgiBody, means: Means, *, stream: bool) -> Wish | None:
    routing, given = means.generations.routing, head.known.headers.get(MODEL_HEADER)
    name = None if given is None else model_asked(given.decode("latin-1"), routing.names)
    spec = routing.direct(name)
    if spec is None:
        return None
    return TgiWish(body, tgi.asked_for(body, Who(spec), head.started, stream=stream))
