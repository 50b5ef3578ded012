"""Nobody waits, and nobody is refused, while a place in the engine lies unused in another process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import httpx
import pytest
from harness import Event, Running, events_of, model, until
from server_wire.raw import connected, posted, read

Start = Callable[..., Running]
PLACES = 8
ROUNDS = 6
PLAIN = posted("/generate", {"inputs": "hello there", "parameters": {"max_new_tokens": 2}})
TO_THE_OWNER = {"x-gateway-session": "somebody"}
"""A request with this header is none that a worker answers."""


def few_places(echo: Start, gateway: Start, **limits: int) -> Running:
    engine = echo(tokens_per_s=100, max_concurrent=200)
    limits = {"max_concurrent": PLACES, **limits}
    return gateway({"models": [model(engine.url, limits=limits)]}, workers=2)


def lend(running: Running) -> float:
    """Have places lent to the worker, and left unused; how many."""

    def lent() -> float:
        with ExitStack() as stack:
            clients = [stack.enter_context(closing(connected(running.url))) for _ in range(PLACES // 2)]
            for _ in range(3):
                for client in clients:
                    client.sendall(PLAIN)
                assert [read(client, 1)[0].status for client in clients] == [200] * len(clients)
        return running.metric("gateway_places_lent") if running.metric("gateway_in_flight") == 0 else 0

    return float(until(lent, "places to be with the worker"))


async def streamed(http: httpx.AsyncClient, tokens: int) -> list[Event]:
    body = {"inputs": "hello there", "stream": True, "parameters": {"max_new_tokens": tokens}}
    async with http.stream("POST", "/v1/generate", json=body, headers=TO_THE_OWNER) as answer:
        assert answer.status_code == 200, await answer.aread()
        return [event async for event in events_of(answer)]


def comments(events: list[Event]) -> list[Any]:
    return [event.data for event in events if event.name == ":"]


async def test_stream_does_not_wait_while_places_are_unused_elsewhere(echo: Start, gateway: Start) -> None:
    running = few_places(echo, gateway)
    async with httpx.AsyncClient(base_url=running.url, timeout=30) as http:
        for _ in range(ROUNDS):
            await asyncio.to_thread(lend, running)
            found = await asyncio.gather(*(streamed(http, 40) for _ in range(PLACES)))
            assert [comments(events) for events in found] == [[]] * PLACES
            assert all(events[-1].name == "done" for events in found)


async def test_nobody_is_refused_while_places_are_unused_elsewhere(echo: Start, gateway: Start) -> None:
    """Without a queue, who finds no place is told so at once."""
    running = few_places(echo, gateway, max_queue=0)
    body = {"inputs": "hello there", "parameters": {"max_new_tokens": 40}}
    async with httpx.AsyncClient(base_url=running.url, timeout=30) as http:
        for _ in range(ROUNDS):
            await asyncio.to_thread(lend, running)
            asked = (http.post("/v1/generate", json=body, headers=TO_THE_OWNER) for _ in range(PLACES))
            assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200] * PLACES


async def test_places_suffice_for_as_many_streams_wherever_they_come_in(echo: Start, gateway: Start) -> None:
    """All at once, on new connections: the kernel decides which process accepts them."""
    running = few_places(echo, gateway, max_queue=0)
    body = {"inputs": "hello there", "parameters": {"max_new_tokens": 30}}
    for _ in range(ROUNDS):
        async with httpx.AsyncClient(base_url=running.url, timeout=30) as http:
            asked = (http.post("/generate_stream", json=body) for _ in range(PLACES))
            answers = await asyncio.gather(*asked)
        assert [answer.status_code for answer in answers] == [200] * PLACES
        assert [answer.text for answer in answers if ": queued" in answer.text] == []
        until(lambda: running.metric("gateway_in_flight") == 0, "all of them to have ended")


async def test_who_must_wait_says_so_and_gets_the_first_place(echo: Start, gateway: Start) -> None:
    running = few_places(echo, gateway)
    async with httpx.AsyncClient(base_url=running.url, timeout=30) as http:
        await asyncio.to_thread(lend, running)
        found = await asyncio.gather(*(streamed(http, 50) for _ in range(PLACES + 2)))
    waited = [events for events in found if comments(events)]
    assert len(waited) == 2
    assert all(events[-1].name == "done" for events in found)


async def test_worker_that_stands_still_holds_nobody_up_who_has_a_place(echo: Start, gateway: Start) -> None:
    """What it has was lent: whoever needs just these waits until it is ended, the others do not."""
    running = few_places(echo, gateway)
    (worker,) = (child for child in running.children() if "gateway.workers" in child.cmdline())
    async with httpx.AsyncClient(base_url=running.url, timeout=40) as http:
        lent = int(await asyncio.to_thread(lend, running))
        await asyncio.gather(*(streamed(http, 1) for _ in range(2)))  # these connections are the owner's
        worker.suspend()
        try:
            free = PLACES - lent
            found = await asyncio.gather(*(streamed(http, 20) for _ in range(free)))
        finally:
            worker.resume()
    assert [comments(events) for events in found] == [[]] * free


@pytest.mark.parametrize("way", ["/generate_stream", "/v1/generate"])
async def test_client_that_leaves_during_a_recall_leaves_nothing_behind(
    echo: Start, gateway: Start, way: str
) -> None:
    running = few_places(echo, gateway)
    (worker,) = (child for child in running.children() if "gateway.workers" in child.cmdline())
    await asyncio.to_thread(lend, running)
    sent = posted(way, {"inputs": "hello", "parameters": {"max_new_tokens": 400}}, "x-gateway-session: me")
    with ExitStack() as stack:
        first = [stack.enter_context(closing(connected(running.url))) for _ in range(2 * PLACES)]
        worker.suspend()
        for client in first:
            client.sendall(sent)
    worker.resume()

    def rest() -> bool:
        names = ("gateway_in_flight", "gateway_queued", "gateway_generations_open")
        return [running.metric(name) for name in names] == [0, 0, 0]

    until(rest, "all of them to be gone")
    assert "Traceback" not in running.output
    with closing(connected(running.url)) as client:
        client.sendall(PLAIN)
        assert read(client, 1)[0].status == 200
