"""How several processes end, together or one of them: what clients get, and what was counted of it."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from harness import Running, events_of, model, until
from metrics.statsd_listener import StatsdListener

Start = Callable[..., Running]
STREAMS = 40
TOKENS = 60
WORKERS = 2
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/generate": {"inputs": "hello there", "parameters": {"max_new_tokens": TOKENS}},
    "/generate_stream": {"inputs": "hello there", "parameters": {"max_new_tokens": TOKENS}},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": TOKENS},
    "/v1/completions": {"prompt": "hello there", "max_tokens": TOKENS},
    "/v1/messages": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": TOKENS},
}
LAST = re.compile(r'event: done|"generated_text":"|data: \[DONE\]|event: message_stop')


def workers_of(running: Running) -> list[psutil.Process]:
    return [child for child in running.children() if "gateway.workers" in child.cmdline()]


def clients_of(worker: psutil.Process, running: Running) -> int:
    """How many clients are connected to it."""
    there = worker.net_connections("tcp")
    port = urlsplit(running.url).port
    return sum(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port for one in there)


@dataclass(slots=True)
class Seen:
    """What clients saw, by what became of their requests."""

    whole: int = 0
    cut: int = 0
    started: int = 0
    statuses: Counter[int] = field(default_factory=Counter)


async def stream(http: httpx.AsyncClient, number: int, seen: Seen) -> None:
    path = [*ROUTES][number % len(ROUTES)]
    body = {**ROUTES[path], "stream": True, "model": "echo"}
    if path in ("/v1/generate", "/generate_stream"):
        del body["model"]
    if path == "/generate_stream":
        del body["stream"]
    text = ""
    try:
        async with http.stream("POST", path, json=body) as answer:
            seen.statuses[answer.status_code] += 1
            async for part in answer.aiter_text():
                seen.started += not text
                text += part
    except httpx.TransportError:
        seen.cut += 1
        return
    if LAST.search(text):
        seen.whole += 1
    else:
        seen.cut += 1


@pytest.fixture
def listener() -> Iterator[StatsdListener]:
    found = StatsdListener()
    yield found
    found.leave()


@pytest.fixture
async def clients() -> AsyncIterator[Callable[[str], httpx.AsyncClient]]:
    made: list[httpx.AsyncClient] = []

    def make(url: str) -> httpx.AsyncClient:
        made.append(httpx.AsyncClient(base_url=url, timeout=30, limits=httpx.Limits(max_connections=200)))
        return made[-1]

    yield make
    for client in made:
        await client.aclose()


Clients = Callable[[str], httpx.AsyncClient]


def start(echo: Start, gateway: Start, **settings: Any) -> Running:
    engine = echo(tokens_per_s=40, max_concurrent=500)
    records = [model(engine.url, limits={"max_concurrent": 256})]
    return gateway({"models": records}, workers=1 + WORKERS, **settings)


async def warm(http: httpx.AsyncClient) -> int:
    """Have places lent to the workers; how many requests that took."""
    body = {"inputs": "hello", "parameters": {"max_new_tokens": 1}}
    for _ in range(3):
        answers = await asyncio.gather(*(http.post("/generate", json=body) for _ in range(STREAMS)))
        assert {answer.status_code for answer in answers} == {200}
    return 3 * STREAMS


async def shared(clients: Clients, running: Running) -> tuple[httpx.AsyncClient, int]:
    """A client of whose connections every worker has some, and how many requests that took.

    Who takes a connection is the system's choice, which may fall on one process for long.
    """
    asked = 0
    for _ in range(20):
        http = clients(running.url)
        asked += await warm(http)
        if all(clients_of(worker, running) for worker in workers_of(running)):
            return http, asked
        await http.aclose()
    raise AssertionError(f"after {asked} requests there is still a worker without a client")


async def begun(http: httpx.AsyncClient, seen: Seen) -> asyncio.Task[Any]:
    """Streams, of which each has had its first token."""
    running = asyncio.ensure_future(asyncio.gather(*(stream(http, n, seen) for n in range(STREAMS))))
    async with asyncio.timeout(15):
        while seen.started < STREAMS:
            await asyncio.sleep(0.01)
    return running  # type: ignore[return-value]  # a future of all of them


async def test_streams_of_all_processes_and_dialects_are_finished_at_the_end(
    echo: Start, gateway: Start, clients: Clients, listener: StatsdListener
) -> None:
    """And what was counted by then is what the clients saw, in the figures that leave last and in the log."""
    running = start(
        echo, gateway, statsd_host="127.0.0.1", statsd_port=listener.port, statsd_interval_s=0.2, drain_s=20
    )
    (http, plain), seen = await shared(clients, running), Seen()
    work = await begun(http, seen)
    running.process.send_signal(signal.SIGTERM)
    await work
    assert await asyncio.to_thread(running.process.wait, 20) == 0
    assert (seen.whole, seen.cut, seen.statuses) == (STREAMS, 0, {200: STREAMS})
    told = listener.hear()
    assert told.count("gw.requests") == plain + STREAMS
    assert told.count("gw.generations", outcome="ok") == plain + STREAMS
    assert told.count("gw.tokens_out") == plain + TOKENS * STREAMS
    assert len(told.values("gw.total")) == plain + STREAMS
    lines = [line for line in running.output.splitlines() if "gateway.access POST" in line]
    assert len(lines) == plain + STREAMS
    assert all(line.count("gateway.access") == 1 and "tokens=" in line for line in lines)
    assert "Traceback" not in running.output


async def test_worker_that_is_killed_breaks_off_its_own_streams_and_no_others(
    echo: Start, gateway: Start, clients: Clients
) -> None:
    running = start(echo, gateway)
    (http, plain), seen = await shared(clients, running), Seen()
    work = await begun(http, seen)
    before = workers_of(running)
    assert running.metric("gateway_requests_total") == plain
    before[0].kill()
    await work
    assert seen.whole + seen.cut == STREAMS
    assert seen.cut
    assert seen.whole
    until(lambda: running.metric("gateway_in_flight") == 0, "its places to be free")
    until(lambda: running.metric("gateway_workers") == WORKERS, "another one to answer", 30)
    assert before[0].pid not in [worker.pid for worker in workers_of(running)]
    assert running.metric("gateway_worker_ends_total") == 1
    assert running.metric("gateway_generations_open") == 0
    # Of those that it broke off, nothing is known: they are the only ones missing.
    assert running.metric("gateway_requests_total") == plain + seen.whole
    again = Seen()
    await (await begun(http, again))
    assert (again.whole, again.cut) == (STREAMS, 0)
    assert "Traceback" not in running.output


async def test_owner_that_is_killed_takes_all_along_and_leaves_its_port(
    echo: Start, gateway: Start, clients: Clients
) -> None:
    running = start(echo, gateway)
    (http, _), seen = await shared(clients, running), Seen()
    work = await begun(http, seen)
    workers = workers_of(running)
    running.process.kill()
    running.process.wait()
    await work
    assert seen.whole == 0
    until(lambda: not any(_lives(worker) for worker in workers), "the workers to end")
    address = urlsplit(running.url)
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind((address.hostname, address.port))
        again.listen()


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


async def test_time_for_the_end_is_limited_for_workers_too(
    echo: Start, gateway: Start, clients: Clients
) -> None:
    """Each stream is told, in its dialect, that it was broken off."""
    running = start(echo, gateway, drain_s=0.3)
    http = clients(running.url)
    await warm(http)
    body = {"inputs": "hello", "stream": True, "parameters": {"max_new_tokens": 4000}}
    started = asyncio.Semaphore(0)

    async def last() -> str:
        async with http.stream("POST", "/v1/generate", json=body) as answer:
            names = []
            async for event in events_of(answer):
                if not names:
                    started.release()
                names.append(event.name)
            return names[-1]

    streams = [asyncio.create_task(last()) for _ in range(STREAMS)]
    for _ in streams:
        await asyncio.wait_for(started.acquire(), 15)
    running.process.send_signal(signal.SIGTERM)
    assert await asyncio.gather(*streams) == ["error"] * STREAMS
    assert await asyncio.to_thread(running.process.wait, 20) == 0
    assert "Traceback" not in running.output
