"""llama.cpp's tokens of a prompt, laid over its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def spans_of(text: str, tokens: Sequence[Mapping[str, Any]]) -> list[tuple[int, str, int, int]]:
    """Id, text, start and stop (characters) of tokens whose pieces are text, or bytes of split characters.

    A token that the tokenizer added (a begin-of-text marker) is not in the text and gets an empty range.
    """
    raw = text.encode()
    starts = _character_index(text)
    found: list[tuple[int, str, int, int]] = []
    at = 0
    for token in tokens:
        piece = token["piece"] if isinstance(token["piece"], str) else bytes(token["piece"])
        piece_bytes = piece.encode() if isinstance(piece, str) else piece
        width = len(piece_bytes) if raw.startswith(piece_bytes, at) else 0
        start, stop = starts[at], starts[max(at, at + width - 1)] + 1 if width else starts[at]
        shown = text[start:stop] if width else piece_bytes.decode(errors="replace")
        found.append((token["id"], shown, start, stop))
        at += width
    return found


def _character_index(text: str) -> list[int]:
    """For each byte of the encoded text the index of its character, and one entry for the end."""
    index = [number for number, character in enumerate(text) for _ in character.encode()]
    return [*index, len(text)]
