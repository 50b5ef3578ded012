"""Clients that leave, or do not read: nothing of theirs stays behind, and their engine is told."""

from __future__ import annotations

import random
import re
import socket
from contextlib import closing

import pytest
from fastpath.conftest import FORMS, Way, Ways
from fastpath.scripted import END, STREAM, Step, chunk, last, token, whole
from harness import until
from server_wire.raw import connected, got, leave, read, rest_of

STAGES: dict[str, list[Step]] = {
    "before the head": ["HOLD"],
    "before the first token": [STREAM, "HOLD"],
    "in the stream": [STREAM, chunk(token(1)), "PAUSE", chunk(token(2)), "HOLD"],
    "in a refusal": [b"HTTP/1.1 500 I\r\ncontent-length: 9\r\n\r\nno", "HOLD"],
}


@pytest.fixture
def way(ways: Ways) -> Way:
    return ways.fast


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize("form", ["plain", "native stream"])
@pytest.mark.parametrize("script", STAGES.values(), ids=STAGES)
def test_a_client_that_leaves_is_counted_as_on_the_ordinary_way(
    ways: Ways, script: list[Step], form: str, how: str
) -> None:
    seen = []
    for way in (ways.fast, ways.ordinary):
        way.engine.play(script)
        before, begin = way.figures(), len(way.running.output)
        client = connected(way.running.url)
        client.sendall(way.request(form, "echo", "x-request-id: the-one"))
        until(lambda way=way: way.engine.asked == 1, "the engine to be asked")  # type: ignore[misc]
        if form == "native stream" and script is STAGES["in the stream"]:
            client.recv(65536)
        else:
            until(lambda way=way: way.engine.holds, "the engine to have said all")  # type: ignore[misc]
        leave(client, how)
        until(lambda way=way: way.engine.left == 1, "the engine to see it")  # type: ignore[misc]
        until(way.settled, "nothing to be under way")
        until(lambda way=way, begin=begin: way.lines(begin), "its line")  # type: ignore[misc]
        after = way.figures()
        # How many tokens were seen by then is a matter of chance.
        counted = {n for n in after if after[n] != before.get(n, 0) and "token" not in n}
        seen.append((counted, way.lines(begin)))
        assert "Traceback" not in way.running.output[begin:]
    assert seen[0] == seen[1]


def test_a_client_may_leave_with_the_last_token(way: Way) -> None:
    for number in range(40):
        way.engine.play([STREAM, chunk(token(1)), "GATE", chunk(last(2)) + END])
        client = connected(way.running.url)
        client.sendall(way.request("stream"))
        client.recv(65536)
        if number % 2:
            way.engine.gate.set()
        leave(client, ("close", "reset")[number % 4 // 2])
        way.engine.gate.set()
    until(way.settled, "nothing to be under way")
    assert "Traceback" not in way.running.output


def test_a_client_may_leave_another_request_behind(way: Way) -> None:
    way.engine.play([whole()], ["HOLD"])
    with closing(connected(way.running.url)) as client:
        client.sendall(way.request("plain") + way.request("stream"))
        client.recv(65536)
        until(lambda: way.engine.asked == 2, "the second to be asked")
    until(lambda: way.engine.left == 1, "the engine to see it")
    until(way.settled, "nothing to be under way")


def test_answers_keep_their_order_behind_a_passage(way: Way) -> None:
    way.engine.play([STREAM, chunk(token(1)), "GATE", chunk(last(2)) + END], [whole()])
    with closing(connected(way.running.url)) as client:
        client.sendall(way.request("stream", "echo", "x-request-id: 1"))
        client.recv(1)
        client.sendall(got("/ping", "x-request-id: 2") + way.request("plain", "echo", "x-request-id: 3"))
        way.engine.gate.set()
        rest = b""
        while rest.count(b"x-request-id: ") < 3:
            piece = client.recv(65536)
            assert piece
            rest += piece
    assert re.findall(rb"x-request-id: (\d)", rest) == [b"1", b"2", b"3"]


def test_many_leave_at_any_time_and_nothing_stays_behind(way: Way) -> None:
    rng = random.Random(7)
    way.engine.play(
        [STREAM, *[step for n in range(1, 4) for step in (chunk(token(n)), "PAUSE")], chunk(last(4)) + END]
    )
    clients: list[socket.socket] = []
    for _ in range(300):
        client = connected(way.running.url)
        client.sendall(way.request(rng.choice([*FORMS])))
        clients.append(client)
        if len(clients) > 40:
            leave(clients.pop(rng.randrange(len(clients))), rng.choice(["close", "reset"]))
    for client in clients:
        leave(client, rng.choice(["close", "reset", "half"]))
    until(way.settled, "nothing to be under way", 60)
    assert "Traceback" not in way.running.output
    way.engine.play([whole()])
    assert way.ask("plain")[0].status == 200


def test_an_engine_is_held_for_a_client_that_does_not_read(way: Way) -> None:
    """What is on its way stays bounded, and all of it comes once the client reads."""
    count = 800  # more than both ends of a connection hold
    tokens = [chunk(token(number, "x" * 20_000)) for number in range(1, count + 1)]
    way.engine.play([STREAM, *tokens, "GATE", chunk(last(count + 1)) + END])
    with closing(connected(way.running.url)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(way.request("stream", "echo", "connection: close"))
        until(lambda: way.engine.asked == 1, "the engine to be asked")
        assert not way.engine.gate.wait(0.5)  # it is not read to its end meanwhile
        assert way.engine.at < count
        way.engine.gate.set()
        found = rest_of(client)
    assert found.count(b"data: ") == count + 1
    until(way.settled, "nothing to be under way")


def test_a_client_that_sends_and_does_not_read_goes_the_ordinary_way(way: Way) -> None:
    """There, answers wait for it: many small requests must not fill the memory."""
    big = chunk(token(1, "x" * 1_000_000))
    way.engine.play([STREAM, big, chunk(last(2)) + END])
    with closing(connected(way.running.url)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(way.request("stream") * 12)
        until(lambda: way.engine.asked >= 1, "the engine to be asked")
        answers = read(client, 12)
    assert [answer.status for answer in answers] == [200] * 12
    until(way.settled, "nothing to be under way")
