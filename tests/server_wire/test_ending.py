"""A gateway that is told to end finishes what it has begun, on every route, and closes what is idle."""

from __future__ import annotations

import signal
from contextlib import ExitStack, closing
from pathlib import Path

from harness import model, start_echo, start_gateway, until
from server_wire.cases import ROUTES
from server_wire.raw import connected, got, read, rest_of, taken

UNDER_WAY = (
    "tgi",
    "tgi stream",
    "tgi by model",
    "native",
    "native stream",
    "chat",
    "chat stream",
    "messages",
    "messages stream",
)


def test_what_is_under_way_is_answered_whole_and_then_the_connection_ends(tmp_path: Path) -> None:
    engine = start_echo(tmp_path, tokens_per_s=4)
    running = start_gateway(tmp_path, {"models": [model(engine.url)]}, drain_s=20)
    try:
        with ExitStack() as stack:
            idle = stack.enter_context(closing(connected(running.url)))
            idle.sendall(got("/ping"))
            assert read(idle, 1)[0].status == 200
            half = stack.enter_context(closing(connected(running.url)))
            half.sendall(ROUTES["tgi"][:40])
            taken([half])
            clients = [stack.enter_context(closing(connected(running.url))) for _ in UNDER_WAY]
            for client, name in zip(clients, UNDER_WAY, strict=True):
                client.sendall(ROUTES[name])
            until(lambda: engine.metric("tgi_batch_current_size") == len(UNDER_WAY), "all of them to run")

            running.process.send_signal(signal.SIGTERM)
            assert rest_of(idle) == b""
            assert rest_of(half) == b""
            for client, name in zip(clients, UNDER_WAY, strict=True):
                (answer,) = read(client, 1)
                assert answer.status == 200, name
                assert b"error" not in answer.body, name
                assert rest_of(client) == b"", name
        assert running.process.wait(20) == 0
        assert "Traceback" not in running.output
        assert engine.metric("tgi_request_success") == len(UNDER_WAY)
    finally:
        running.stop()
        engine.stop()
