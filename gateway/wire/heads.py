"""Heads of requests, as bytes."""

from __future__ import annotations

import re
from typing import Final

_UPGRADE: Final = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


def without_upgrade(data: bytes) -> bytes:
    """``data``, which begins with a request's head, without an offer to change the protocol.

    None is taken here, which is a server's right. A parser would stop at the end of the head, and drop the
    body; Java's own client makes such an offer with its first request.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0 or not _UPGRADE.search(data, 0, end):
        return data
    return _UPGRADE.sub(b"\r\nx-ignored-upgrade:", data[:end]) + data[end:]
