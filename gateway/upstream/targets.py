"""Requests to engines, as bytes: what all to one route have in common is made once. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Final

import httpx

from gateway.records import record
from gateway.upstream.address import split_name
from gateway.upstream.pool import Origin

HEADERS: Final = {"accept-encoding": "identity", "user-agent": "unified-llm-gateway"}
"""Of every request."""
MOST: Final = 512  # engines times routes, and some to spare
_PORTS: Final = {"http": 80, "https": 443}


@record
class _Target:
    """A route of an engine, and what every request to it begins with."""

    origin: Origin
    head: bytes


class Targets:
    """All that are remembered."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], _Target] = {}

    def request(
        self, method: str, base_url: str, path: str, content: bytes | None, more: Mapping[str, str]
    ) -> tuple[Origin, bytes]:
        """Where a request goes, and all of it: JSON with the headers ``more``, or nothing.

        Raises httpx.UnsupportedProtocol, LocalProtocolError and InvalidURL.
        """
        key = (method, base_url, path)
        target = self._known.get(key)
        if target is None:
            if len(self._known) >= MOST:
                self._known.clear()
            target = self._known[key] = _target(method, base_url, path)
        if content is None:
            return target.origin, target.head + b"\r\n"
        data = b"%b%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
            target.head,
            _lines([(name.encode(), value.encode()) for name, value in more.items()]) if more else b"",
            len(content),
            content,
        )
        return target.origin, data


def _target(method: str, base_url: str, path: str) -> _Target:
    where, name = split_name(base_url)
    url = httpx.URL(where.rstrip("/") + path)
    host = {} if name is None else {"host": name}
    headers = httpx.Request(method, url, headers={**HEADERS, **host}).headers.raw
    lines = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    if url.userinfo:
        user = f"{url.username}:{url.password}".encode()
        lines.append((b"authorization", b"Basic " + b64encode(user)))
    return _Target(origin_of(url), head_of(method.encode(), url.raw_path, lines))


def origin_of(url: httpx.URL) -> Origin:
    """Where its connections lead. Raises httpx.UnsupportedProtocol."""
    port = _PORTS.get(url.scheme)
    if port is None:
        raise httpx.UnsupportedProtocol(f"the address must begin with http:// or https://, not {url}")
    if not url.host:
        raise httpx.UnsupportedProtocol("the address names no host")
    return Origin(url.raw_host.decode("ascii"), url.port or port, url.scheme == "https")


def head_of(method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """A head without its empty line. Raises httpx.LocalProtocolError."""
    if b"\r" in target or b"\n" in target:
        raise httpx.LocalProtocolError("a header holds a line end")
    return b"%b %b HTTP/1.1\r\n%b" % (method, target, _lines(headers))


def _lines(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Headers as they stand in a head, each with its line end."""
    lines = [b"%b: %b" % pair for pair in headers]
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise httpx.LocalProtocolError("a header holds a line end")
    return b"".join([b"%b\r\n" % line for line in lines])
