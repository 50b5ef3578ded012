"""Clients that send slowly, send too much of a head, or do not read: sockets against a whole gateway."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from harness import Running, model, start_echo, start_gateway, until
from pydantic_core import from_json, to_json

CLOCK_S = 0.5


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway with short clocks."""
    folder = tmp_path_factory.mktemp("hasty")
    engine = start_echo(folder, max_input_tokens=200_000, max_total_tokens=400_000)
    settings = {"receive_timeout_s": CLOCK_S, "send_timeout_s": CLOCK_S, "max_body_bytes": 20_000_000}
    running = start_gateway(folder, {"models": [model(engine.url)]}, **settings)
    yield running
    running.stop()
    engine.stop()


def connected(running: Running) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", int(running.url.rsplit(":", 1)[1])))
    client.settimeout(15)
    return client


def head(path: str, *more: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *more, "", ""]).encode()


def posted(path: str, body: dict[str, object]) -> bytes:
    data = to_json(body)
    return head(path, "Content-Type: application/json", f"Content-Length: {len(data)}") + data


def rest_of(client: socket.socket) -> bytes:
    """All that comes until the gateway closes."""
    found = b""
    while piece := client.recv(65536):
        found += piece
    return found


def error_in(answer: bytes) -> tuple[int, str]:
    status, body = answer.split(b" ", 2)[1], answer.partition(b"\r\n\r\n")[2]
    return int(status), from_json(body)["error"]["type"]


def test_silent_connection_is_closed_without_a_word(hasty: Running) -> None:
    with closing(connected(hasty)) as client:
        assert rest_of(client) == b""


@pytest.mark.parametrize("sent", [b"P", b"POST /v1/generate HTTP/1.1\r\nHost: loc"])
def test_head_that_does_not_get_complete_is_408(hasty: Running, sent: bytes) -> None:
    with closing(connected(hasty)) as client:
        client.sendall(sent)
        assert error_in(rest_of(client)) == (408, "request_timeout")


def test_second_head_that_does_not_get_complete_is_408_too(hasty: Running) -> None:
    with closing(connected(hasty)) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /health HTTP/1.1\r\n")
        assert error_in(rest_of(client)) == (408, "request_timeout")


def test_body_that_does_not_get_complete_is_408_and_the_end_of_the_connection(hasty: Running) -> None:
    with closing(connected(hasty)) as client:
        client.sendall(head("/v1/generate", "Content-Type: application/json", "Content-Length: 50") + b"{")
        answer = rest_of(client)
    assert error_in(answer) == (408, "request_timeout")
    assert b"GATEWAY_RECEIVE_TIMEOUT_S" in answer


def test_rest_of_a_body_that_nobody_waits_for_is_on_the_clock(hasty: Running) -> None:
    """A trickle would otherwise keep the connection for ever: each byte counts as a sign of life."""
    with closing(connected(hasty)) as client:
        client.settimeout(0.2)
        client.sendall(head("/v1/nowhere", "Content-Length: 1000"))

        def is_closed() -> bool:
            try:
                client.sendall(b".")
                return client.recv(65536) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        until(is_closed, "the connection to be closed", 10)


@pytest.mark.parametrize("whole", [True, False])
def test_head_that_is_too_large_is_431(hasty: Running, whole: bool) -> None:
    sent = head("/v1/generate", f"X-Long: {'x' * 70_000}")
    with closing(connected(hasty)) as client:
        client.sendall(sent if whole else sent[:-10])
        assert error_in(rest_of(client)) == (431, "headers_too_large")


def test_many_headers_of_a_bearable_size_are_fine(hasty: Running) -> None:
    more = [f"X-Long-{number}: {'x' * 6_000}" for number in range(10)]
    with closing(connected(hasty)) as client:
        client.sendall("\r\n".join(["GET /health HTTP/1.1", "Host: localhost", *more, "", ""]).encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_client_that_does_not_read_loses_its_connection_and_its_place(hasty: Running) -> None:
    """An answer that nobody reads fills the connection, so that the stream behind it cannot be sent."""

    def in_flight() -> int:
        return int(hasty.get("/v1/models/echo").json()["in_flight"])

    big = posted("/v1/render", {"inputs": "a" * 8_000_000, "scenario": "raw"})
    streamed = posted("/v1/generate", {"inputs": "hello there", "stream": True})
    with closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(hasty.url.rsplit(":", 1)[1])))
        client.sendall(big + streamed)
        until(lambda: in_flight() == 1, "the stream to run")
        until(lambda: in_flight() == 0, "the place to be given back")
        assert f"nothing was read from it within {CLOCK_S:g} s" in hasty.output
    assert "Traceback" not in hasty.output


def test_client_that_reads_slowly_but_reads_is_left_alone(hasty: Running) -> None:
    parameters = {"max_new_tokens": 2_000}
    words = " ".join(f"{number:05}" for number in range(2_000))
    asked = {"inputs": words, "scenario": "raw", "stream": True, "parameters": parameters}
    with closing(connected(hasty)) as client:
        client.sendall(posted("/v1/generate", asked))
        found = b""
        while b"event: done" not in found:
            found += client.recv(1024)
    assert b"01999" in found


def test_nothing_behind_a_head_that_was_refused_is_looked_at(hasty: Running) -> None:
    asked = hasty.metric("gateway_http_requests_total")
    refused = head("/v1/generate", f"X-Long: {'x' * 70_000}", "Content-Length: 0")
    with closing(connected(hasty)) as client:
        client.sendall(refused + posted("/v1/generate", {"inputs": "hello"}))
        assert error_in(rest_of(client)) == (431, "headers_too_large")
    assert hasty.metric("gateway_http_requests_total") == asked + 1  # the one that asked for the metrics
