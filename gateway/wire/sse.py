"""Server-sent events, both ways, as bytes: three encoders and one incremental decoder.

Field values stay bytes where a parser follows (``data``), so that nothing is decoded twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_BOM: Final = b"\xef\xbb\xbf"
_CR: Final = 0x0D
_LF: Final = 0x0A
_COLON: Final = 0x3A


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event. ``event`` is "message" unless named; ``id`` and ``retry_ms`` are its own, or None."""

    data: bytes
    event: str = "message"
    id: str | None = None
    retry_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SseComment:
    """One comment line: a keep-alive, or news for people. It never counts as data."""

    text: str


class SseOverflow(ValueError):
    """A line or an event is larger than the decoder may hold."""


def encode_data(data: bytes) -> bytes:
    """One unnamed event. Line ends inside ``data`` become several data lines (and arrive as line feeds)."""
    if data.find(b"\n") >= 0 or data.find(b"\r") >= 0:  # several times as quick as `in`
        unified = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        data = unified.replace(b"\n", b"\ndata: ")
    return b"data: " + data + b"\n\n"


def encode_event(name: str, data: bytes) -> bytes:
    """One named event; a line end in ``name`` is a ValueError."""
    if "\n" in name or "\r" in name:
        raise ValueError(f"an event's name is one line, got {name!r}")
    return b"event: " + name.encode() + b"\n" + encode_data(data)


def encode_comment(text: str = "") -> bytes:
    """A comment, one line for each line of ``text``; without text the shortest keep-alive."""
    lines = [f": {line}".rstrip() for line in text.splitlines()] or [":"]
    return "\n".join(lines).encode() + b"\n\n"


def whole_events(chunk: bytes) -> list[bytes] | None:
    """The data of ``chunk`` if it is whole events of one data line each, and nothing else; None otherwise."""
    if not chunk.startswith(b"data:") or not chunk.endswith(b"\n\n") or chunk.find(b"\r") >= 0:
        return None
    begin = b"data: " if chunk.startswith(b"data: ") else b"data:"
    lines = chunk[len(begin) : -2].split(b"\n\n" + begin)
    # No line end but those between events; and where one has no space behind its name, none has.
    if chunk.count(b"\n") == 2 * len(lines) and (len(begin) == 6 or chunk.find(b"\n\ndata: ") < 0):
        return lines
    return None


class SseDecoder:
    """Bytes in as they arrive, whole events out. Holds at most ``max_bytes`` of an unfinished event.

    An event is complete at its blank line, so one that the end of the body cuts off is never reported.
    """

    __slots__ = (
        "_after_cr",
        "_at_start",
        "_data",
        "_event",
        "_held_bytes",
        "_id",
        "_max_bytes",
        "_retry_ms",
        "_tail",
    )

    def __init__(self, max_bytes: int = 8 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._tail = bytearray()
        self._at_start = True
        self._after_cr = False
        self._id: str | None = None
        self._retry_ms: int | None = None
        self._clear()

    def feed(self, chunk: bytes) -> list[SseEvent | SseComment]:
        """What became complete with ``chunk``, in order. After SseOverflow it takes no more."""
        if self._after_cr and chunk:
            # A line ended with the last chunk's \r and was handed out; this may be the other half of \r\n.
            self._after_cr = False
            if chunk[0] == _LF:
                chunk = chunk[1:]
        found: list[SseEvent | SseComment] = []
        for piece in chunk.splitlines(keepends=True):
            if piece[-1] != _LF and piece[-1] != _CR:
                self._tail += piece
                self._check(len(self._tail))
                break
            self._line(self._whole(piece), found)
        self._after_cr = self._after_cr or chunk[-1:] == b"\r"
        return found

    def data(self, chunk: bytes) -> list[bytes]:
        """Like ``feed``, but the data of events alone.

        Whole events of one data line each, which is how engines write, are not taken apart further.
        """
        if self._between_events(chunk) and (lines := whole_events(chunk)) is not None:
            self._at_start = False
            return lines
        return [event.data for event in self.feed(chunk) if type(event) is SseEvent]

    def _between_events(self, chunk: bytes) -> bool:
        held = self._tail or self._data or self._after_cr or self._event != "message"
        return not held and len(chunk) <= self._max_bytes

    def _whole(self, piece: bytes) -> bytes:
        if self._tail:
            self._tail += piece
            piece = bytes(self._tail)
            self._tail.clear()
        line = piece.rstrip(b"\r\n")
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        return line

    def _line(self, line: bytes, found: list[SseEvent | SseComment]) -> None:
        if not line:
            if self._data:
                found.append(SseEvent(b"\n".join(self._data), self._event, self._id, self._retry_ms))
            self._clear()
        elif line[0] == _COLON:
            found.append(SseComment(line[1:].removeprefix(b" ").decode("utf-8", "replace")))
        else:
            name, _, value = line.partition(b":")
            self._field(name, value.removeprefix(b" "))

    def _field(self, name: bytes, value: bytes) -> None:
        if name == b"data":
            self._data.append(value)
            self._held_bytes += len(value) + 1
            self._check(0)
        elif name == b"event":
            self._event = value.decode("utf-8", "replace") or "message"
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit():
            self._retry_ms = int(value[:18])

    def _check(self, more_bytes: int) -> None:
        if self._held_bytes + more_bytes > self._max_bytes:
            raise SseOverflow(f"an event of the stream is larger than {self._max_bytes} bytes")

    def _clear(self) -> None:
        self._data: list[bytes] = []
        self._held_bytes = 0
        self._event = "message"
        self._id = None
        self._retry_ms = None
