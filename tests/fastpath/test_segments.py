"""Requests in odd pieces, on real connections: who remembers a head must have seen all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from harness import Running, model, start_echo, start_gateway, until
from server_wire.cases import BODY
from server_wire.raw import Told, connected, got, posted, read, taken, told

from gateway import keyfile

KEY = "Authorization: Bearer secret"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_echo(tmp_path_factory.mktemp("engine"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def locked(engine: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_gateway(
        tmp_path_factory.mktemp("locked"), {"models": [model(engine.url)]}, api_key="secret"
    )
    yield running
    assert "Traceback" not in running.output
    running.stop()


def ask(running: Running, sent: bytes) -> Told:
    with closing(connected(running.url)) as client:
        client.sendall(sent)
        return told(client, 1)


def in_two(running: Running, sent: bytes, at: int) -> int:
    with closing(connected(running.url)) as client:
        client.sendall(sent[:at])
        taken([client])
        client.sendall(sent[at:])
        return read(client, 1)[0].status


def test_half_of_a_head_with_a_key_opens_nothing(locked: Running) -> None:
    sent = posted("/generate", BODY, KEY, "X-More: there")
    lines = sent.index(b"Authorization"), sent.index(b"X-More"), sent.index(b"localhost")
    for at in (*lines, sent.index(b"Content-Type"), sent.index(b"Content-Length") - 2):
        assert in_two(locked, sent, at) == 200
        assert 200 not in ask(locked, sent[at:]).statuses


def test_what_follows_a_refused_request_teaches_nothing(locked: Running) -> None:
    """The refusal is there before the rest of its body, which comes in one piece with a good request."""
    refused = posted("/generate", BODY, "Content-Length: 30")[:-5].partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    good = posted("/generate", BODY, KEY)
    with closing(connected(locked.url)) as client:
        client.sendall(refused)
        assert read(client, 1)[0].status == 401
        client.sendall(b"x" * 30 + good)
        assert [answer.status for answer in read(client, 1)] in ([200], [])
    assert 200 not in ask(locked, b"x" * 30 + good).statuses


def test_a_length_with_many_digits_is_read_whole(locked: Running) -> None:
    """Whoever is in front reads all digits: what it takes for a body must not be taken for a request."""
    sent = posted("/generate", BODY, KEY)
    assert ask(locked, sent).statuses == [200]
    length = len(sent.partition(b"\r\n\r\n")[2])
    name = b"Content-Length: "
    odd = sent.replace(name + b"%d" % length, name + b"0" * (10 - len(str(length))) + b"%d0" % length)
    hidden = got("/ping")
    with closing(connected(locked.url)) as client:
        client.sendall(odd)
        taken([client])
        client.sendall(hidden.ljust(9 * length))
        (answer,) = read(client, 1)
    assert answer.status in (400, 422)  # one request, whose body is no JSON


def test_a_key_is_asked_for_each_time(engine: Running, tmp_path: Path) -> None:
    """The head is remembered; whether its key is still good is not."""
    keys = tmp_path / "keys"
    secret = keyfile.new(keys, "laptop", ["generate"])
    keyfile.new(keys, "other", ["generate"])
    running = start_gateway(tmp_path, {"models": [model(engine.url)]}, keys_file=keys)
    try:
        sent = posted("/generate", BODY, f"x-api-key: {secret}")
        assert [ask(running, sent).statuses for _ in range(3)] == [[200]] * 3
        keyfile.revoke(keys, "laptop")
        until(lambda: ask(running, sent).statuses == [401], "the key to be refused")
    finally:
        running.stop()


def test_a_body_that_is_too_large_is_refused_behind_a_head_that_is_known(
    engine: Running, tmp_path: Path
) -> None:
    running = start_gateway(tmp_path, {"models": [model(engine.url)]}, max_body_bytes=1000)
    try:
        large = {"inputs": "word " * 300, "parameters": {"max_new_tokens": 1}}
        for _ in range(2):
            assert ask(running, posted("/generate", BODY)).statuses == [200]
            with closing(connected(running.url)) as client:
                client.sendall(posted("/generate", large))
                assert read(client, 1)[0].status == 413
    finally:
        running.stop()
