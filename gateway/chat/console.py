"""What reaches the screen: text made harmless, dim lines, and one status line in place."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Final, TextIO

from prompt_toolkit.utils import get_cwidth

# What a model writes must not move the cursor, set a title or fill the clipboard. Control characters become
# their pictures; a carriage return goes, as it would let one line hide another.
_HARMLESS: Final = {
    **{code: chr(0x2400 + code) for code in range(0x20) if code not in (0x09, 0x0A)},
    **dict.fromkeys(range(0x80, 0xA0), "\N{REPLACEMENT CHARACTER}"),
    0x0D: None,
    0x7F: "\N{SYMBOL FOR DELETE}",
}


def harmless(text: str) -> str:
    return text.translate(_HARMLESS)


def clipped(text: str, columns: int) -> str:
    """``text`` cut to ``columns`` cells of a terminal; a Chinese character takes two."""
    if get_cwidth(text) <= columns:
        return text
    width, kept = 1, []
    for character in text:
        width += get_cwidth(character)
        if width > columns:
            break
        kept.append(character)
    return "".join(kept) + "…"


class Console:
    """One output stream, and what it can do.

    ``moves``: a line can be rewritten in place. ``colours``: text can be dimmed and coloured.
    """

    def __init__(self, stream: TextIO, environment: Mapping[str, str]) -> None:
        self._stream = stream
        self.moves = stream.isatty() and environment.get("TERM", "dumb") != "dumb"
        self._colours = self.moves and not environment.get("NO_COLOR")
        self._raw = not stream.isatty()
        self._status = ""
        self._line_open = False

    def write(self, text: str) -> None:
        """Text as it arrives, without a line end of its own. A file or pipe gets it untouched."""
        if not text:
            return
        self.status("")
        shown = text if self._raw else harmless(text)
        self._put(shown)
        self._line_open = not shown.endswith("\n")

    def end_line(self) -> None:
        """Begin a new line, unless the cursor is at the start of one."""
        if self._line_open:
            self._put("\n")
            self._line_open = False

    def say(self, text: str) -> None:
        self._line(text)

    def dim(self, text: str) -> None:
        self._line(text, "2")

    def complain(self, text: str) -> None:
        self._line(text, "31")

    def status(self, text: str) -> None:
        """Show ``text`` in place of the last status; an empty one clears it.

        Where nothing can be rewritten every new status is a line of its own.
        """
        if text == self._status:
            return
        self._status = text
        if not self.moves:
            if text:
                self._line(text)
            return
        self.end_line()
        shown = clipped(harmless(text), shutil.get_terminal_size().columns - 1)
        self._put(f"\r{self._styled(shown, '2')}\x1b[K")

    def _line(self, text: str, style: str | None = None) -> None:
        if self.moves:
            self.status("")
        self.end_line()
        self._put(self._styled(harmless(text), style) + "\n")

    def _styled(self, text: str, style: str | None) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if style and text and self._colours else text

    def _put(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
