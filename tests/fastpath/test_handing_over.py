"""Requests that the fast path gave up: whoever has the last word about one, its place is given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fastpath.conftest import Start, Way, start_way
from fastpath.scripted import answer, whole
from harness import start_gateway, until
from server_wire.conftest import start_ordinary
from server_wire.raw import connected, read

from gateway import keyfile


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def locked(tmp_path: Path, keys: Path) -> Iterator[tuple[Way, str]]:
    secret = keyfile.new(keys, "laptop", ["generate"])
    admin = keyfile.new(keys, "admin", ["admin"])
    found = start_way(tmp_path / "way", keys_file=keys)
    found.admin = admin
    yield found, secret
    found.close()


def test_a_key_that_is_revoked_meanwhile_leaves_no_place_behind(locked: tuple[Way, str], keys: Path) -> None:
    """The engine fails after its client's key is gone: the ordinary way refuses what it is handed."""
    way, secret = locked
    way.engine.play(["GATE", answer("500 Internal Server Error", b"no")], [whole()])
    key = f"x-api-key: {secret}"
    with closing(connected(way.running.url)) as client:
        client.sendall(way.request("plain", "echo", key))
        until(lambda: way.engine.asked == 1, "the engine to be asked")
        keyfile.revoke(keys, "laptop")
        until(lambda: way.ask("plain", "brief", key)[0].status == 401, "the key to be refused")
        way.engine.gate.set()
        assert read(client, 1)[0].status == 401
    until(way.settled, "its place to be free")
    echo = next(one for one in way.models() if one["id"] == "echo")
    assert echo["in_flight"] == 0


@pytest.mark.parametrize("start", [start_gateway, start_ordinary], ids=["fast", "ordinary"])
def test_an_engine_that_dies_is_an_error_for_one_and_nothing_for_who_comes_while_it_does(
    start: Start, tmp_path: Path
) -> None:
    """Its last connections are taken and reset: whoever has one did not end it, and gets an answer."""
    command = ["{python}", str(Path(__file__).parent / "dying_engine.py"), "{port}", str(tmp_path)]
    once_more = {"switching": {"backoff_initial_s": 0.1}}
    running = start(
        tmp_path, {"models": [{"id": "echo", "family": "chatml", "command": command}], **once_more}
    )
    try:
        with closing(connected(running.url)) as client:
            client.sendall(Way.request("native stream"))
            assert b"event: error" in read(client, 1)[0].body
            client.sendall(Way.request("plain"))
            assert read(client, 1)[0].status == 200
    finally:
        running.stop()
