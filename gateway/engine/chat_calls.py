"""A tool call out of the text that a grammar made of it: ``{"function": {"_name": …, …}}``. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_OPENING: Final = re.compile(r'\s*\{\s*"function"\s*:\s*\{\s*"_name"\s*:\s*("(?:[^"\\]|\\.)*")\s*(,|\})')
_CLOSING: Final = re.compile(r"[\s}]*\Z")


@dataclass(frozen=True, slots=True)
class CallPiece:
    """More of a call; the first piece has its name."""

    arguments: str
    name: str | None = None


class CallReader:
    """Reads the text as it comes. ``name`` is set as soon as it is known."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._text = ""
        self._held = ""
        self._begun = False

    def feed(self, text: str) -> Iterator[CallPiece]:
        if self.name is not None:
            yield from self._more(text)
            return
        self._text += text
        found = _OPENING.match(self._text)
        if found is None:
            return
        self.name = json.loads(found[1])
        yield CallPiece("{", self.name)
        rest = self._text[found.end() :]
        yield from self._more(rest if found[2] == "," else found[2] + rest)

    def finish(self, *, complete: bool) -> Iterator[CallPiece]:
        """What was held back, without the brace that closes the object around the call."""
        held = self._held.rstrip()
        rest = held.removesuffix("}").rstrip() if complete else held
        if self.name is not None and rest:
            yield CallPiece(rest)

    def _more(self, text: str) -> Iterator[CallPiece]:
        # Only at the end can one tell which of the closing braces is not the arguments' own.
        text = self._held + text
        text = text if self._begun else text.lstrip()
        self._begun = self._begun or bool(text)
        closing = _CLOSING.search(text)
        at = closing.start() if closing else len(text)
        self._held = text[at:]
        if text[:at]:
            yield CallPiece(text[:at])
