"""What the dialects with an event for each token have in common."""

from __future__ import annotations

from typing import Protocol

from gateway.answers import Answer
from gateway.fastpath.settled import said
from gateway.preparing import GenerationRequest, Prepared
from gateway.schemas import RawTokens, Token


class Writer(Protocol):
    """Writes the events of one stream (``EventWriter`` of the dialect)."""

    def passed(self, event: bytes) -> bytes: ...
    def raw(self, tokens: RawTokens) -> bytes: ...
    def token(self, token: Token) -> bytes: ...
    def last(self, answer: Answer) -> bytes: ...


class WrittenWish:
    """The part of a ``Wish`` that only its writer has to do with."""

    __slots__ = ("_writer", "asked")

    def __init__(self, asked: GenerationRequest, writer: Writer) -> None:
        self.asked = asked
        self._writer = writer

    def said(self) -> bytes | None:
        return said(self.asked.parameters)

    def answered_by(self, prepared: Prepared) -> None:
        """Nothing of it is needed here."""

    def passed(self, event: bytes) -> bytes:
        return self._writer.passed(event)

    def chunk(self, piece: Token | RawTokens) -> bytes:
        return self._writer.raw(piece) if isinstance(piece, RawTokens) else self._writer.token(piece)

    def last(self, answer: Answer) -> bytes:
        return self._writer.last(answer)
