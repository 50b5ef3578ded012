"""Heads of requests that were read before: a client that keeps its connection sends the same one each time.

What the parser made of a head is kept under its bytes, all but the digits of the body's length, so nothing is
taken for something that it is not: the same bytes mean the same. Only heads that the fast path has taken are
kept, so none with two lengths, or a body in chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

Headers = list[tuple[bytes, bytes]]
"""Names in lower case."""

MOST_HEADS: Final = 512
MOST_BYTES: Final = 4096
MOST_DIGITS: Final = 10
"""Of a length. To read a number of any length is work that anybody could ask for."""
_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"ength: "
_LINE: Final = b"\r\ncontent-length: "


@dataclass(frozen=True, slots=True)
class Known:
    """A head, read. ``headers`` has each name once."""

    url: bytes
    path: str
    headers: Mapping[bytes, bytes]
    keep_alive: bool
    request_id: str | None
    trace: Mapping[str, str]
    """What ties the request to its client's trace."""

    def request(self) -> dict[str, Any]:
        """As ASGI has it."""
        return {
            "method": "POST",
            "path": self.path,
            "raw_path": self.url,
            "query_string": b"",
            "headers": list(self.headers.items()),
        }


class Heads:
    """All that are remembered."""

    def __init__(self) -> None:
        self._known: dict[bytes, Known] = {}

    def find(self, data: bytes) -> tuple[Known, bytes] | None:
        """The head that ``data`` begins with, and the body, if that is exactly one whole request."""
        end = data.find(_END)
        at = data.find(_LENGTH, 0, end) + 7
        if end < 0 or at < 7:
            return None
        stop = data.find(b"\r\n", at)
        digits = data[at:stop]
        known = self._known.get(data[:at] + data[stop:end])
        if known is None or not digits.isdigit() or len(digits) > MOST_DIGITS:
            return None
        if int(digits) != len(data) - end - 4:
            return None
        return known, data[end + 4 :]

    def learn(self, data: bytes, body: bytes, known: Known) -> None:
        """Remember how ``data`` was read, if it is of use: a head from its first byte on, and ``body``."""
        end = data.find(_END)
        at = data.find(_LENGTH, 0, end) + 7
        if end < 0 or at < len(_LINE) or end > MOST_BYTES or data[end + 4 :] != body:
            return
        if not data.startswith(b"POST %b HTTP/1.1\r\n" % known.url):
            return
        # An id or a trace is of one request: it will not come again.
        if known.request_id is not None or known.trace or data[at - len(_LINE) : at].lower() != _LINE:
            return
        if len(self._known) >= MOST_HEADS:
            self._known.clear()
        self._known[data[:at] + data[data.find(b"\r\n", at) : end]] = known
