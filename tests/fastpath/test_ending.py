"""The end of a gateway that has passages under way, and places that nobody took over."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fastpath.conftest import Way, start_way
from fastpath.scripted import END, STREAM, chunk, last, token
from harness import until
from server_wire.raw import Answer, connected, read, rest_of, taken

SAID = b"The gateway is shutting down."


@pytest.fixture
def way(tmp_path: Path) -> Iterator[Way]:
    found = start_way(tmp_path / "way", drain_s=1)
    yield found
    found.close()


def cut_off(way: Way, form: str) -> Answer:
    """What a request is told that the end of the gateway finds under way."""
    way.engine.play([STREAM, chunk(token(1)), "HOLD"] if "stream" in form else ["HOLD"])
    with closing(connected(way.running.url)) as client:
        client.sendall(way.request(form, "echo", "x-request-id: the-one"))
        until(lambda: way.engine.holds, "the engine to have said all")
        way.running.process.send_signal(signal.SIGTERM)
        (answer,) = read(client, 1)
        assert rest_of(client) == b""
    assert way.running.process.wait(20) is not None
    assert len(way.lines(0)) == 1
    return answer


@pytest.mark.parametrize("form", ["plain", "native", "native stream"])
def test_who_is_cut_off_is_told_and_noted_in_the_log(way: Way, form: str) -> None:
    answer = cut_off(way, form)
    assert SAID in answer.body
    assert answer.status == (200 if "stream" in form else 503)
    assert answer.header("x-request-id") == "the-one"
    assert answer.header("date")
    assert "Traceback" not in way.running.output


def test_what_can_be_finished_in_time_is(way: Way) -> None:
    way.engine.play([STREAM, chunk(token(1)), "GATE", chunk(last(2)) + END])
    with closing(connected(way.running.url)) as stream, closing(connected(way.running.url)) as plain:
        stream.sendall(way.request("stream"))
        plain.sendall(way.request("plain"))
        until(lambda: way.engine.asked == 2, "both to be asked")
        way.running.process.send_signal(signal.SIGTERM)
        until(lambda: "Waiting for connections" in way.running.output, "the drain")
        way.engine.gate.set()
        for client in (stream, plain):
            (answer,) = read(client, 1)
            assert answer.status == 200
            assert SAID not in answer.body
            assert rest_of(client) == b""
    assert way.running.process.wait(20) == 0
    assert len(way.lines(0)) == 2


def test_a_request_that_is_held_for_its_body_is_not_dropped(way: Way) -> None:
    """As on the ordinary way: what has a head is answered, be it with a refusal."""
    sent = way.request("plain", "echo", "x-request-id: the-one")
    with closing(connected(way.running.url)) as client:
        client.sendall(sent[:-5])
        taken([client])
        way.running.process.send_signal(signal.SIGTERM)
        until(lambda: "Shutting down" in way.running.output, "the end to begin")
        client.sendall(sent[-5:])
        (answer,) = read(client, 1)
        assert answer.status in (200, 503)
    assert way.running.process.wait(20) == 0


def test_a_second_signal_ends_it_at_once(way: Way) -> None:
    way.engine.play([STREAM, chunk(token(1)), "HOLD"])
    with closing(connected(way.running.url)) as client:
        client.sendall(way.request("stream"))
        until(lambda: way.engine.holds, "the engine to have said all")
        way.running.process.send_signal(signal.SIGTERM)
        until(lambda: "Waiting for connections" in way.running.output, "the drain")
        way.running.process.send_signal(signal.SIGINT)
        rest_of(client)
    way.running.process.wait(20)
    assert "Traceback" not in way.running.output
    assert len(way.lines(0)) == 1
