"""What a request asks for in its dialect, and how it is answered: the edge of the fast path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.answers import Answer
from gateway.errors import GatewayError
from gateway.fastpath.heads import Known
from gateway.fastpath.means import Means
from gateway.preparing import GenerationRequest, Prepared
from gateway.records import record
from gateway.schemas import RawTokens, Token


@record
class Head:
    """What is known of a request beside its body."""

    known: Known
    request_id: str
    started: float


class Enough(Exception):
    """Raised by a wish that wants no more tokens: its text has ended, and the engine does not know it.

    ``chunk`` is the last that the stream says of tokens, if anything; ``tokens`` is how many were read.
    """

    def __init__(self, chunk: bytes, tokens: int) -> None:
        super().__init__()
        self.chunk = chunk
        self.tokens = tokens


class Wish(Protocol):
    """One request in its dialect."""

    @property
    def asked(self) -> GenerationRequest:
        """What the line is asked for; ``who`` is decided."""
        ...

    def said(self) -> bytes | None:
        """Its parameters as JSON; None where that cannot hold them."""
        ...

    def answered_by(self, prepared: Prepared) -> None:
        """Told once, before anything else, with what the engine gets."""
        ...

    def plain(self, answer: Answer) -> tuple[bytes, str]:
        """Body of a whole answer, and its headers as they stand in a head."""
        ...

    def opening(self, model_id: str) -> str:
        """Headers of a stream, as they stand in its head."""
        ...

    def passed(self, event: bytes) -> bytes:
        """What a stream says of one token as TGI wrote it; may be nothing. Raises Enough."""
        ...

    def chunk(self, piece: Token | RawTokens) -> bytes:
        """What a stream says of tokens; may be nothing. Raises Enough."""
        ...

    def last(self, answer: Answer) -> bytes:
        """The end of a stream."""
        ...

    def error(self, error: GatewayError) -> bytes:
        """The end of a stream that fails."""
        ...


Read = Callable[[Head, bytes, Means], Wish | None]
"""(head, body, means) → wish; None for what takes the ordinary way. Raises GatewayError for what will be
refused there."""
