"""What the dialects have in common that read an answer as a text without stop strings."""

from __future__ import annotations

from collections.abc import Callable

from gateway.answers import Answer
from gateway.api.reading import Ended, Reader, Said
from gateway.api.tgi_events import events_of, plain_text, token_of
from gateway.fastpath.settled import said
from gateway.fastpath.wishes import Enough
from gateway.preparing import GenerationRequest, Prepared
from gateway.schemas import RawTokens, Token

SaidText = Callable[[bytes], bytes]
"""Text, as a string of JSON → events."""
SaidPiece = Callable[[Said | Ended], bytes]


class TextWish:
    """The part of a Wish that is about tokens. ``text`` and ``piece`` are how its dialect writes them.

    Most tokens are text in which no stop string begins. Their JSON is cut out of TGI's bytes, and put into
    the dialect's; what is left is read like on the ordinary way.
    """

    __slots__ = ("_piece", "_reader", "_text", "asked")

    def __init__(self, asked: GenerationRequest, reader: Reader, text: SaidText, piece: SaidPiece) -> None:
        self.asked = asked
        self._reader = reader
        self._text = text
        self._piece = piece

    def said(self) -> bytes | None:
        return said(self.asked.parameters)

    def answered_by(self, prepared: Prepared) -> None:
        self._reader.answered_by(prepared)

    def passed(self, event: bytes) -> bytes:
        text = plain_text(event)
        if text is not None and self._reader.passes(text):
            return self._text(text)
        return self._token(token_of(event))

    def chunk(self, piece: Token | RawTokens) -> bytes:
        if isinstance(piece, Token):
            return self._token(piece)
        chunks = []
        for event in events_of(piece):
            try:
                chunks.append(self.passed(event))
            except Enough as enough:
                raise Enough(b"".join([*chunks, enough.chunk]), enough.tokens) from None
        return b"".join(chunks)

    def last(self, answer: Answer) -> bytes:
        return b"".join([self._piece(piece) for piece in self._reader.end(answer)])

    def _token(self, token: Token) -> bytes:
        said = self._reader.token(token)
        chunk = b"" if said is None else self._piece(said)
        if self._reader.has_enough(token):
            raise Enough(chunk, self._reader.tokens)
        return chunk
