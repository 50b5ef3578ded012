"""Where the ordinary way itself is wrong: what should be answered instead."""

from __future__ import annotations

from contextlib import closing

import pytest
from server_wire.cases import BODY
from server_wire.conftest import Pair
from server_wire.raw import Told, chunked, connected, got, posted, told

UPGRADES = {
    "h2c": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
    "websocket": ("Connection: Upgrade", "Upgrade: websocket"),
}


def asked(pair: Pair, sent: bytes, count: int = 1) -> Told:
    with closing(connected(pair.served.url)) as client:
        client.sendall(sent)
        return told(client, count)


@pytest.mark.parametrize("lines", UPGRADES.values(), ids=UPGRADES)
def test_upgrade_that_is_not_offered_is_ignored(pair: Pair, lines: tuple[str, ...]) -> None:
    """Java's own client asks for HTTP/2 this way with its first request, which has a body (RFC 9110, 7.8)."""
    assert asked(pair, posted("/generate", BODY, *lines)).statuses == [200]


def test_connection_goes_on_behind_an_upgrade_that_is_not_offered(pair: Pair) -> None:
    """(The ordinary way answers, and understands nothing more.)"""
    sent = got("/health", "Connection: Upgrade", "Upgrade: websocket")
    assert not asked(pair, sent).closed


def test_trailer_is_no_header(pair: Pair) -> None:
    """Whoever checked the headers in front of us has not seen it (RFC 9110, 6.5.1)."""
    trailers = b"x-gateway-model: nobody\r\n"
    assert asked(pair, chunked("/generate", BODY, trailers=trailers)).statuses == [200]


def test_spaces_behind_a_host_do_not_belong_to_it(pair: Pair) -> None:
    assert asked(pair, posted("/generate", BODY, "Host: localhost \t ")).statuses == [200]


@pytest.mark.parametrize("path", ["/generate_stream", "/generate", "/metrics"])
def test_client_of_http_1_0_gets_no_chunks(pair: Pair, path: str) -> None:
    """It may not know them (RFC 9112, 6.1): the end of the connection is the end of the answer."""
    plain = b"GET /metrics HTTP/1.0\r\n\r\n"
    with closing(connected(pair.served.url)) as client:
        client.sendall(plain if path == "/metrics" else posted(path, BODY, version="HTTP/1.0"))
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    if path == "/generate_stream":
        *events, rest = body.split(b"\n\n")
        assert rest == b""
        assert len(events) > 1
        assert all(event.startswith(b"data:") for event in events)
    else:
        assert f"content-length: {len(body)}".encode() in head
