"""What workers are made of: messages, figures, lent slots, and what a worker takes for its own request."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Mapping
from typing import Any

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_wire.raw import chunked, posted

from gateway.metrics import Metrics
from gateway.scheduler import (
    Arrived,
    DevicePolicy,
    Finished,
    ModelPolicy,
    Scheduler,
    Started,
    SwitchPolicy,
    Tick,
)
from gateway.upstream.base import ClockTimeout, EngineUnreachable
from gateway.workers import channel
from gateway.workers.errors import told, understood
from gateway.workers.figures import Incoming, Outgoing
from gateway.workers.reading import head_of, may_become_one

Heard = tuple[Mapping[str, Any], bytes, int | None]


class Ear:
    def __init__(self) -> None:
        self.heard: asyncio.Queue[Heard] = asyncio.Queue()
        self.left = asyncio.Event()

    def told(self, message: Mapping[str, Any], data: bytes, passed: int | None) -> None:
        self.heard.put_nowait((message, data, passed))

    def alone(self) -> None:
        self.left.set()


@pytest.mark.parametrize("size", [0, 10, channel.INLINE_BYTES - 20, channel.INLINE_BYTES, 300_000])
async def test_messages_of_any_size_come_whole_with_what_is_passed(size: int) -> None:
    one, other = channel.pair()
    ear = Ear()
    here, there = channel.Channel(one, Ear()), channel.Channel(other, ear)
    left, right = socket.socketpair()
    data = os.urandom(size)
    here.send({"is": "connection", "text": "größer"}, data, left.fileno())
    left.close()
    message, came, passed = await asyncio.wait_for(ear.heard.get(), 5)
    assert (message, came) == ({"is": "connection", "text": "größer"}, data)
    assert passed is not None
    with socket.socket(fileno=passed) as moved, right:
        moved.sendall(b"hello")
        assert right.recv(10) == b"hello"
    here.close()
    await asyncio.wait_for(ear.left.wait(), 5)
    there.close()


@pytest.mark.parametrize("size", [10, 300_000])
async def test_message_comes_also_where_no_more_files_may_be_open(size: int) -> None:
    one, other = channel.pair()
    ear = Ear()
    here, there = channel.Channel(one, Ear()), channel.Channel(other, ear)
    left, right = socket.socketpair()
    with left, right:
        assert here.send({"is": "begun", "place": 3}, b"x" * size, left.fileno())
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            message, _, passed = await asyncio.wait_for(ear.heard.get(), 5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (message, passed) == ({"is": "begun", "place": 3}, None)
    here.close()
    there.close()


async def test_more_messages_than_a_socket_holds_come_in_order() -> None:
    one, other = channel.pair()
    ear = Ear()
    here = channel.Channel(one, Ear())
    for number in range(2_000):
        here.send({"is": "tick", "number": number}, b"x" * 1_000)
    assert here.busy
    there = channel.Channel(other, ear)
    found = [(await asyncio.wait_for(ear.heard.get(), 5))[0]["number"] for _ in range(2_000)]
    assert found == list(range(2_000))
    assert not here.busy
    here.close()
    there.close()


def test_figures_arrive_once_and_levels_go_with_their_worker() -> None:
    there, here = Metrics(keep_values=True), Metrics(keep_values=True)
    outgoing, incoming = Outgoing(there), Incoming(here)
    here.count("gateway_tokens_out_total", 5, model="m", arm="none")
    for round_ in range(1, 4):
        there.count("gateway_tokens_out_total", 7, model="m", arm="none")
        there.level("gateway_generations_open", model="m").add(1)
        there.gauge("gateway_open_connections", 10 * round_)
        there.observe("gateway_queue_seconds", 0.3, model="m")
        incoming.add([[name, [*labels], change] for name, labels, change in outgoing.news()])
        assert not outgoing.news()
    assert here.value("gateway_tokens_out_total", {"model": "m", "arm": "none"}) == 26
    assert here.value("gateway_generations_open", {"model": "m"}) == 3
    assert here.value("gateway_queue_seconds_count", {"model": "m"}) == 3
    assert here.value("gateway_queue_seconds_sum", {"model": "m"}) == pytest.approx(0.9)
    assert here.value("gateway_queue_seconds_bucket", {"model": "m", "le": "0.25"}) == 0
    assert here.value("gateway_queue_seconds_bucket", {"model": "m", "le": "0.5"}) == 3
    values = here.spread("gateway_queue_seconds", model="m").take()
    assert [(round(value, 6), times) for value, times in values] == [(0.3, 3)]
    assert incoming.connections == 30
    incoming.gone()
    assert here.value("gateway_generations_open", {"model": "m"}) == 0
    assert here.value("gateway_tokens_out_total", {"model": "m", "arm": "none"}) == 26


@pytest.mark.parametrize(
    "error",
    [
        EngineUnreachable("Nothing answers.", hint="Wait.", retry_after_s=2.5),
        ClockTimeout("first_token", "Too late.", hint="Ask for less.", engine_suspect=False),
    ],
)
def test_errors_are_the_same_at_the_owner(error: EngineUnreachable | ClockTimeout) -> None:
    again = understood(told(error))
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert str(again) == str(error)


def scheduler(**limits: int) -> Scheduler:
    models = [ModelPolicy(name, "card", 6, **limits) for name in ("one", "two")]
    made = Scheduler(models, [DevicePolicy("card", 8)], SwitchPolicy(max_wait_s=5, min_residency_s=0), 0.0)
    made.handle(Tick(), 0.0)
    made.handle(Arrived(1, "one"), 0.0)
    made.handle(Started("one"), 1.0)
    made.handle(Finished(1), 2.0)
    return made


def test_lent_slots_count_for_admission_and_not_as_requests() -> None:
    desk = scheduler(max_concurrent=2)
    assert desk.lending.spare("one") == 2
    assert desk.lending.spare("two") is None
    assert desk.lending.take(10, "one", 3.0)
    assert desk.lending.take(11, "one", 3.0)
    assert not desk.lending.take(12, "one", 3.0)
    desk.lending.unused("one", 2)
    assert desk.view("one").in_flight == 0
    assert not desk.admit_at_once(2, "one", 0, 3.0)
    desk.handle(Arrived(2, "one"), 3.0)
    assert desk.lending.spare("one") is None
    assert not desk.lending.calm
    desk.handle(Finished(10, 3.0), 3.1)
    assert desk.view("one").waiting == 0


def test_model_is_idle_since_its_lent_slots_were_used_and_not_since_they_came_back() -> None:
    desk = scheduler(max_concurrent=4)
    assert desk.lending.take(10, "one", 3.0)
    desk.lending.worked("one", 3, 3, 0.5, 4.0)
    desk.handle(Arrived(5, "two"), 4.5)
    assert desk.view("one").state == "ready"
    desk.handle(Finished(10, 4.0), 4.6)
    desk.handle(Tick(), 30.0)
    assert desk.view("one").state == "stopping"


BODY = {"inputs": "hi"}


def test_only_what_has_one_meaning_is_read() -> None:
    plain = posted("/generate", BODY)
    read = head_of(plain)
    assert read is not None
    assert (read.url, read.size, read.keep_alive) == (b"/generate", len(plain), True)
    assert plain[read.body_at : read.size] == b'{"inputs":"hi"}'
    for other in (
        posted("/generate?x=1", BODY),
        posted("/generate", BODY, version="HTTP/1.0"),
        posted("/v1/models", BODY),
        posted("/generate", BODY, "Content-Length: 3", "Content-Length: 3"),
        posted("/generate", BODY, "Expect: 100-continue"),
        plain.replace(b"Content-Length: ", b"Content-Length: 000000000"),
        posted("/generate", BODY, "Connection: Upgrade", "Upgrade: websocket"),
        posted("/generate", BODY, "Bad Header: x"),
        chunked("/generate", BODY),
        plain.replace(b"POST", b"PUT "),
        plain.replace(b"\r\n", b"\n", 1),
    ):
        assert head_of(other) is None, other


def test_other_methods_are_passed_on_before_their_head_is_there() -> None:
    assert may_become_one(b"P")
    assert may_become_one(b"POST /gene")
    assert not may_become_one(b"GET /")
    assert not may_become_one(b"PUT")
    assert not may_become_one(b"POST /" + b"x" * 20_000)


class Parsed:
    """What the server's own parser makes of bytes."""

    def __init__(self, data: bytes) -> None:
        self.url, self.body, self.complete = b"", b"", 0
        httptools.HttpRequestParser(self).feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete += 1


LENGTHS = (
    b"Content-Length: %d",
    b"content-length:%d",
    b"Content-Length: 0%d",
    b"Content-Length: 0000000000%d",
    b"Content-Length: %d0",
    b"Content-Length: 00000000%d0",
    b"Content-Length: +%d",
    b"Content-Length: %d \t",
    b"Content-Length: %d, %d",
    b"Content-Length : %d",
)
OTHERS = (
    b"Host: localhost",
    b"Connection: close",
    b"Connection: keep-alive, upgrade",
    b"Content-Length: %d",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"X-Folded: one\r\n two",
    b"X-Odd: \x00",
    b"X-Odd: \xff",
)


@settings(max_examples=1000)
@given(
    st.sampled_from(LENGTHS), st.lists(st.sampled_from(OTHERS), max_size=2), st.binary(max_size=30), st.data()
)
def test_request_is_as_long_as_the_server_would_have_it(
    length: bytes, others: list[bytes], body: bytes, more: st.DataObject
) -> None:
    """Otherwise its rest would be taken for another request, which whoever is in front has not seen."""
    lines = [line.replace(b"%d", b"%d" % len(body)) for line in (length, *others)]
    sent = b"\r\n".join([b"POST /generate HTTP/1.1", *more.draw(st.permutations(lines)), b"", body])
    if more.draw(st.integers(0, 3)) == 0:
        at = more.draw(st.integers(0, len(sent) - 1))
        sent = sent[:at] + more.draw(st.binary(max_size=3)) + sent[at + 1 :]
    read = head_of(sent)
    if read is None:
        return
    whole = sent.ljust(read.size, b"x")[: read.size]
    parsed = Parsed(whole)
    assert (parsed.complete, parsed.url, parsed.body) == (1, read.url, whole[read.body_at :])
    if read.size > read.body_at:
        assert Parsed(whole[:-1]).complete == 0
