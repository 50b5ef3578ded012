"""What a request asks for in its dialect, and how it is answered: the edge of the fast path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from pydantic_core import to_json

from gateway.answers import Answer
from gateway.api import native, tgi, tgi_answers
from gateway.api.bodies import parse
from gateway.api.names import model_asked
from gateway.api.native import GenerateBody
from gateway.api.receipts import origin_headers, receipt_headers
from gateway.api.streams import SSE_HEADERS
from gateway.api.tgi_bodies import TgiBody
from gateway.errors import GatewayError
from gateway.fastpath.heads import Known
from gateway.preparing import GenerationRequest
from gateway.records import record
from gateway.routing import DIRECT, Routing, Who
from gateway.schemas import RawTokens, Token

MODEL_HEADER: Final = tgi.MODEL_HEADER.encode()


@record
class Head:
    """What is known of a request beside its body."""

    known: Known
    request_id: str
    started: float


class Wish(Protocol):
    """One request in its dialect."""

    @property
    def asked(self) -> GenerationRequest:
        """What the line is asked for; ``who`` is decided."""
        ...

    def plain(self, answer: Answer) -> tuple[bytes, Mapping[str, str]]:
        """Body and headers of a whole answer."""
        ...

    def opening(self, model_id: str) -> Mapping[str, str]:
        """Headers of a stream."""
        ...

    def passed(self, event: bytes) -> bytes:
        """What a stream says of one token as TGI wrote it."""
        ...

    def chunk(self, piece: Token | RawTokens) -> bytes:
        """What a stream says of tokens; may be nothing."""
        ...

    def last(self, answer: Answer) -> bytes:
        """The end of a stream."""
        ...

    def error(self, error: GatewayError) -> bytes:
        """The end of a stream that fails."""
        ...


Read = Callable[[Head, bytes, Routing], Wish | None]
"""(head, body, routing) → wish; None for what takes the ordinary way. Raises GatewayError for what will be
refused there."""


class TgiWish:
    """TGI's own routes."""

    __slots__ = ("_body", "_writer", "asked")

    def __init__(self, body: TgiBody, asked: GenerationRequest) -> None:
        self.asked = asked
        self._body = body
        self._writer = tgi_answers.EventWriter(details=tgi_answers.details_asked(body))

    def plain(self, answer: Answer) -> tuple[bytes, Mapping[str, str]]:
        return to_json({"generated_text": answer.text}), tgi_answers.answer_headers(self._body, answer)

    def opening(self, model_id: str) -> Mapping[str, str]:
        return {**SSE_HEADERS, **tgi_answers.stream_headers(self._body, model_id, DIRECT)}

    def passed(self, event: bytes) -> bytes:
        return self._writer.passed(event)

    def chunk(self, piece: Token | RawTokens) -> bytes:
        return self._writer.raw(piece) if isinstance(piece, RawTokens) else self._writer.token(piece)

    def last(self, answer: Answer) -> bytes:
        return self._writer.last(answer)

    def error(self, error: GatewayError) -> bytes:
        return tgi_answers.error_event(error)


def tgi_whole(head: Head, raw: bytes, routing: Routing) -> Wish | None:
    """``POST /generate``. With details each token is wanted, and then nothing is gained here."""
    body = parse(raw, TgiBody)
    return None if tgi_answers.details_asked(body) else _tgi(head, body, routing, stream=False)


def tgi_stream(head: Head, raw: bytes, routing: Routing) -> Wish | None:
    """``POST /generate_stream``."""
    return _tgi(head, parse(raw, TgiBody), routing, stream=True)


def _tgi(head: Head, body: TgiBody, routing: Routing, *, stream: bool) -> Wish | None:
    given = head.known.headers.get(MODEL_HEADER)
    name = None if given is None else model_asked(given.decode("latin-1"), routing.names)
    spec = routing.direct(name)
    return (
        None if spec is None else TgiWish(body, tgi.asked_for(body, Who(spec), head.started, stream=stream))
    )


class NativeWish:
    """``POST /v1/generate``."""

    __slots__ = ("_request_id", "_writer", "asked")

    def __init__(self, asked: GenerationRequest, request_id: str) -> None:
        self.asked = asked
        self._request_id = request_id
        self._writer = native.EventWriter(request_id)

    def plain(self, answer: Answer) -> tuple[bytes, Mapping[str, str]]:
        return to_json(native.answer_body(answer, self._request_id)), receipt_headers(answer)

    def opening(self, model_id: str) -> Mapping[str, str]:
        return {**SSE_HEADERS, **origin_headers(model_id, DIRECT)}

    def passed(self, event: bytes) -> bytes:
        return self._writer.passed(event)

    def chunk(self, piece: Token | RawTokens) -> bytes:
        return self._writer.raw(piece) if isinstance(piece, RawTokens) else self._writer.token(piece)

    def last(self, answer: Answer) -> bytes:
        return self._writer.last(answer)

    def error(self, error: GatewayError) -> bytes:
        return native.error_event(error, self._request_id)


def native_generate(head: Head, raw: bytes, routing: Routing) -> Wish | None:
    """``POST /v1/generate``."""
    body = parse(raw, GenerateBody)
    if body.fallback:
        return None
    spec = routing.direct(body.model_id)
    if spec is None:
        return None
    return NativeWish(native.asked_for(body, head.started, Who(spec)), head.request_id)


ROUTES: Final[Mapping[bytes, Read]] = {
    b"/generate": tgi_whole,
    b"/generate_stream": tgi_stream,
    b"/v1/generate": native_generate,
}
"""By path, as it is written."""
