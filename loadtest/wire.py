"""Server-sent events as the gateway's native stream has them, read as they arrive."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

EVENT_END = b"\n\n"


class Readable(Protocol):
    """What geventhttpclient gives for a body. Its ``read(n)`` waits for n bytes, which would blur every
    token; ``readline`` returns as soon as the separator is there, and nothing at the end."""

    def readline(self, sep: bytes = ...) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Event:
    """One event; ``name`` is empty for comments. ``size`` is that on the wire, in bytes."""

    name: str
    data: bytes
    size: int = 0

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.data)
        return found


def events(body: Readable) -> Iterator[Event]:
    """Every event of a body, comments too. Ends with the body, complete or not."""
    while block := bytes(body.readline(EVENT_END)):
        yield parse(block)


def parse(block: bytes) -> Event:
    name, data = "", b""
    for line in block.splitlines():
        if line.startswith(b"event:"):
            name = line[6:].strip().decode()
        elif line.startswith(b"data:"):
            data += line[5:].strip()
    return Event(name or ("message" if data else ""), data, len(block))


def receipt_of(headers: Mapping[str, str]) -> dict[str, float]:
    """The receipt of a plain answer, from its headers."""
    found = {}
    for part in ("queue", "load", "prefill", "decode", "gateway", "total"):
        value = headers.get(f"x-gateway-{part}-ms")
        if value is not None:
            found[f"{part}_ms"] = float(value)
    return found
