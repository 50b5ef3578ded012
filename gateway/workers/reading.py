"""What a client has sent begins with a request that a worker may answer, or with something else. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import httptools

from gateway.fastpath.heads import MOST_DIGITS, Headers
from gateway.fastpath.routes import ROUTES

MOST_HEAD_BYTES: Final = 16_384
"""With a larger one, the owner decides."""
_POST: Final = b"POST "
_END: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Read:
    """A head of the kind that the fast path answers. ``size`` is that of the whole request, in bytes."""

    url: bytes
    headers: Headers
    keep_alive: bool
    body_at: int
    size: int


class _Head:
    """What the parser says."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: Headers = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def may_become_one(data: bytes) -> bool:
    """Whether ``data``, in which no head is complete, could be the beginning of such a request."""
    return len(data) <= MOST_HEAD_BYTES and data[:5] == _POST[: len(data)]


def head_of(data: bytes) -> Read | None:
    """The head that ``data`` begins with; None when it is none that a worker answers.

    Only what can have no second meaning is taken: one length, and no encoding of the body.
    """
    end = data.find(_END) + len(_END)
    if data[:5] != _POST or end > MOST_HEAD_BYTES:
        return None
    head = _Head()
    parser = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(data[:end])
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    lengths = [value for name, value in head.headers if name == b"content-length"]
    encoded = any(name in (b"transfer-encoding", b"upgrade", b"expect") for name, _ in head.headers)
    if not head.complete or encoded or len(lengths) != 1:
        return None
    if not lengths[0].isdigit() or len(lengths[0]) > MOST_DIGITS:
        return None
    if head.url not in ROUTES or parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
        return None
    return Read(head.url, head.headers, parser.should_keep_alive(), end, end + int(lengths[0]))


def is_complete(data: bytes) -> bool:
    """Whether a whole head is there."""
    return _END in data
