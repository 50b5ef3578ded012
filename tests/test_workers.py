"""Several processes that are one gateway: who answers, whose places those are, and what is counted."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from harness import REPOSITORY, Running, model, owned, until
from server_wire.raw import connected, posted, read

Start = Callable[..., Running]
BODY = {"inputs": "hello there", "parameters": {"max_new_tokens": 3}}
SENT = posted("/generate", BODY)
STREAM = posted("/generate_stream", BODY)
CONNECTIONS = 24


def workers_of(running: Running) -> list[psutil.Process]:
    return [child for child in running.children() if "gateway.workers" in child.cmdline()]


def clients_of(worker: psutil.Process, running: Running) -> int:
    """How many clients are connected to it."""
    port = urlsplit(running.url).port
    there = worker.net_connections("tcp")
    return sum(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port for one in there)


def in_flight(running: Running, name: str = "echo") -> int:
    return int(running.get(f"/v1/models/{name}").json()["in_flight"])


def state(running: Running, name: str) -> str:
    return str(running.get(f"/v1/models/{name}").json()["state"])


@pytest.fixture
def pair(echo: Start, gateway: Start) -> tuple[Running, Running]:
    """An engine, and a gateway of two processes before it."""
    engine = echo(tokens_per_s=200, max_concurrent=200)
    return engine, gateway({"models": [model(engine.url)]}, workers=2)


def ask_all(clients: list[socket.socket], sent: bytes = SENT, times: int = 1) -> None:
    for _ in range(times):
        for client in clients:
            client.sendall(sent)
        assert [read(client, 1)[0].status for client in clients] == [200] * len(clients)


def many(stack: ExitStack, running: Running, count: int = CONNECTIONS) -> list[socket.socket]:
    return [stack.enter_context(closing(connected(running.url))) for _ in range(count)]


def at_workers(running: Running, clients: list[socket.socket]) -> list[socket.socket]:
    """Those whose connection is with a worker: they are answered while the owner stands still."""
    ask_all(clients)
    running.process.send_signal(signal.SIGSTOP)
    try:
        for client in clients:
            client.sendall(SENT)
        until(lambda: select.select(clients, [], [], 0)[0], "a worker to answer", 3)
        found: list[socket.socket] = select.select(clients, [], [], 0)[0]
    finally:
        running.process.send_signal(signal.SIGCONT)
    assert [read(client, 1)[0].status for client in clients] == [200] * len(clients)
    return found


def test_workers_answer_by_themselves(pair: tuple[Running, Running]) -> None:
    _, running = pair
    with ExitStack() as stack:
        clients = many(stack, running)
        ask_all(clients, times=2)
        assert at_workers(running, clients)


def has_a_share(clients: list[socket.socket], sent: bytes, worker: psutil.Process, running: Running) -> bool:
    ask_all(clients, sent)
    return clients_of(worker, running) >= len(clients) // 3


def test_connections_stay_where_their_requests_are_answered(echo: Start, gateway: Start) -> None:
    """Of a model with several replicas nothing is lent, so a worker can do nothing for who asks it."""
    engines = [echo(max_concurrent=200) for _ in range(2)]
    several = model(engines[0].url, replicas=[engines[1].url])
    running = gateway({"models": [model(engines[0].url, id="one"), several]}, workers=2)
    (worker,) = workers_of(running)
    alone = posted("/generate", BODY, "x-gateway-model: one")
    with ExitStack() as stack:
        clients = many(stack, running)
        share = partial(has_a_share, clients, alone, worker, running)
        until(share, "the worker to have its share")
        ask_all(clients, posted("/generate", BODY, "x-gateway-model: echo"), times=3)
        until(lambda: clients_of(worker, running) == 0, "all to be with the owner")
        until(share, "the worker to have its share again")


def test_every_request_is_counted_once_and_idle_leases_are_no_requests(pair: tuple[Running, Running]) -> None:
    engine, running = pair
    with ExitStack() as stack:
        ask_all(many(stack, running), STREAM, times=10)
        # Within a second, places are still lent.
        assert running.metric("gateway_in_flight") == in_flight(running) == 0
        assert running.metric("gateway_requests_total") == 10 * CONNECTIONS
        assert running.metric("gateway_tokens_out_total") == 3 * 10 * CONNECTIONS
        assert running.metric("gateway_total_seconds_count") == 10 * CONNECTIONS
        assert running.metric("gateway_between_tokens_seconds_count") == 2 * 10 * CONNECTIONS
        assert running.metric("gateway_open_connections") >= CONNECTIONS
        assert running.metric("gateway_generations_open") == 0
    assert engine.metric("tgi_request_success") == 10 * CONNECTIONS
    lines = [
        line for line in running.output.splitlines() if "gateway.access POST /generate_stream 200" in line
    ]
    assert len(lines) == 10 * CONNECTIONS
    assert all("tokens=3" in line for line in lines)


def test_requests_that_run_at_workers_are_in_flight(pair: tuple[Running, Running]) -> None:
    _, running = pair
    slow = posted("/generate", {"inputs": "hello there", "parameters": {"max_new_tokens": 400}})
    with ExitStack() as stack:
        clients = many(stack, running)
        ask_all(clients, times=2)
        for client in clients:
            client.sendall(slow)
        until(lambda: in_flight(running) == CONNECTIONS, "all to be seen")
        assert running.metric("gateway_in_flight") == CONNECTIONS
        assert running.metric("gateway_generations_open") == CONNECTIONS
    until(lambda: in_flight(running) == 0, "those whose client left to be gone")
    assert running.metric("gateway_generations_open") == 0


@pytest.fixture
def switching(gateway: Start) -> Running:
    registry = {
        "models": [
            {**owned(name, tokens_per_s=100, max_concurrent=64), "memory": "6GiB"} for name in ("one", "two")
        ],
        "devices": [{"id": "card", "memory": "8GiB"}],
        "switching": {"max_wait_s": 0.5, "min_residency_s": 0.1},
    }
    return gateway(registry, workers=3)


async def test_models_that_do_not_fit_together_take_turns(switching: Running) -> None:
    """Requests of many clients for both: all are answered, by whom they asked, and never both are in."""
    both = []

    async def watch() -> None:
        async with httpx.AsyncClient(base_url=switching.url, timeout=30) as client:
            while True:
                states = [one["state"] for one in (await client.get("/v1/models")).json()["data"]]
                both.append(sum(one not in ("stopped", "failed") for one in states))
                await asyncio.sleep(0.05)

    async def client(name: str) -> list[tuple[int, str]]:
        async with httpx.AsyncClient(base_url=switching.url, timeout=60) as http:
            body = {"model_id": name, "inputs": "hello", "parameters": {"max_new_tokens": 5}}
            answers = [await http.post("/v1/generate", json=body) for _ in range(12)]
        return [(answer.status_code, answer.json().get("model_id")) for answer in answers]

    watching = asyncio.create_task(watch())
    names = ["one", "two"] * 6
    found = await asyncio.gather(*(client(name) for name in names))
    watching.cancel()
    for name, answers in zip(names, found, strict=True):
        assert answers == [(200, name)] * 12
    assert both
    assert max(both) == 1
    assert switching.metric("gateway_requests_total") == 12 * len(names)
    assert switching.metric("gateway_switches_total") >= 2


async def test_places_come_back_as_soon_as_somebody_else_waits(switching: Running) -> None:
    """While a worker has unused places, and one in which a stream runs, another model is asked for."""
    async with httpx.AsyncClient(base_url=switching.url, timeout=60) as http:
        body = {"model_id": "one", "inputs": "hello", "parameters": {"max_new_tokens": 5}}
        for _ in range(8):
            await asyncio.gather(*(http.post("/v1/generate", json=body) for _ in range(16)))
        long = {**body, "stream": True, "parameters": {"max_new_tokens": 100}}
        began = asyncio.get_running_loop().time()
        streams = [asyncio.create_task(http.post("/v1/generate", json=long)) for _ in range(16)]
        other = asyncio.create_task(http.post("/v1/generate", json={**body, "model_id": "two"}))
        answers = await asyncio.gather(*streams)
        streamed_s = asyncio.get_running_loop().time() - began
        answer = await other
        all_s = asyncio.get_running_loop().time() - began
    assert all(b"event: done" in one.content or b'"done"' in one.content for one in answers), answers[0].text
    assert answer.json()["model_id"] == "two"
    receipt = answer.json()["receipt"]
    # From the end of the last stream to the answer there is a stop and a load, and no wait for anything else.
    assert all_s - streamed_s < receipt["load_ms"] / 1000 + 5
    assert state(switching, "one") == "stopped"


def test_unused_model_is_unloaded_although_its_places_are_lent(gateway: Start) -> None:
    registry = {"models": [{**owned("one", max_concurrent=64), "idle_timeout_s": 1.5}]}
    running = gateway(registry, workers=2)
    with ExitStack() as stack:
        ask_all(many(stack, running), times=3)
        assert state(running, "one") == "ready"
        until(lambda: state(running, "one") == "stopped", "the idle time to be over")


def test_worker_that_is_killed_gives_its_places_back_and_another_one_starts(
    pair: tuple[Running, Running],
) -> None:
    _, running = pair
    (worker,) = workers_of(running)
    slow = posted("/generate_stream", {"inputs": "hello there", "parameters": {"max_new_tokens": 600}})
    with ExitStack() as stack:
        clients = many(stack, running)
        ask_all(clients, times=2)
        for client in clients:
            client.sendall(slow)
        until(lambda: in_flight(running) == CONNECTIONS, "all to run")
        worker.send_signal(signal.SIGKILL)
        until(lambda: in_flight(running) < CONNECTIONS, "the places of the dead to be free")
        # What runs at the owner goes on, and whoever comes is answered.
        ask_all(many(stack, running, 4))
    until(lambda: in_flight(running) == 0, "all to be over")
    until(lambda: running.output.count("processes answer") == 2, "another one to be ready", 30)
    assert [one.pid for one in workers_of(running)] != [worker.pid]
    assert running.metric("gateway_generations_open") == 0
    with ExitStack() as stack:
        clients = many(stack, running)
        ask_all(clients, times=2)
        assert at_workers(running, clients)
    assert "Traceback" not in running.output


def test_workers_end_with_the_owner_however_it_ends(pair: tuple[Running, Running]) -> None:
    _, running = pair
    workers = workers_of(running)
    running.process.kill()
    running.process.wait()
    until(lambda: not any(worker.is_running() for worker in workers), "the workers to end")


def test_signals_end_all_processes(pair: tuple[Running, Running]) -> None:
    _, running = pair
    children = running.children()
    with ExitStack() as stack:
        clients = many(stack, running)
        ask_all(clients)
        assert running.stop() == 0
    assert not any(child.is_running() for child in children)
    assert "Traceback" not in running.output


def test_second_signal_ends_all_at_once(pair: tuple[Running, Running]) -> None:
    _, running = pair
    children = running.children()
    slow = posted("/generate_stream", {"inputs": "hello there", "parameters": {"max_new_tokens": 4000}})
    with ExitStack() as stack:
        clients = many(stack, running)
        ask_all(clients)
        for client in clients:
            client.sendall(slow)
        until(lambda: in_flight(running) == CONNECTIONS, "all to run")
        running.process.send_signal(signal.SIGINT)
        until(lambda: "Waiting for connections" in running.output, "the drain")
        running.process.send_signal(signal.SIGINT)
        running.process.wait(10)
    until(lambda: not any(child.is_running() for child in children), "the workers to end")
    assert "Traceback" not in running.output


def test_revoked_key_is_refused_by_all(echo: Start, gateway: Start, tmp_path: Path) -> None:
    engine = echo()
    env = {**os.environ, "GATEWAY_RUN_DIR": str(tmp_path / "run")}

    def keys(*words: str) -> str:
        command = [sys.executable, "-m", "gateway", "keys", *words]
        done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=True)
        return done.stdout

    key = next(word for word in keys("new", "somebody").split() if word.startswith("gw-"))
    running = gateway({"models": [model(engine.url)]}, workers=2)
    sent = posted("/generate", BODY, f"Authorization: Bearer {key}")
    with ExitStack() as stack:
        clients = many(stack, running)
        ask_all(clients, sent, times=2)
        keys("revoke", "somebody")

        def refused() -> bool:
            for client in clients:
                client.sendall(sent)
            return {read(client, 1)[0].status for client in clients} == {401}

        until(refused, "all to refuse it", 5)


def test_request_too_large_for_a_message_gets_to_the_owner(pair: tuple[Running, Running]) -> None:
    _, running = pair
    text = "word " * 20_000
    sent = posted("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": 2})
    with ExitStack() as stack:
        for client in many(stack, running, 6):
            client.sendall(sent)
            assert read(client, 1)[0].status in (200, 413, 422)


def test_engine_that_is_gone_is_told_by_the_owner_with_its_figures(pair: tuple[Running, Running]) -> None:
    engine, running = pair
    with ExitStack() as stack:
        clients = many(stack, running)
        ask_all(clients, times=2)
        engine.process.kill()
        engine.process.wait()
        for client in clients:
            client.sendall(SENT)
        statuses = {read(client, 1)[0].status for client in clients}
    assert statuses <= {502, 503}
    assert running.metric("gateway_requests_total") == 3 * CONNECTIONS
    assert running.metric("gateway_generations_open") == 0
    until(lambda: in_flight(running) == 0, "all places to be free")
    assert "Traceback" not in running.output


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"GATEWAY_WORKERS": "0"}, "GATEWAY_WORKERS"),
        ({"GATEWAY_WORKERS": "2", "GATEWAY_TRANSPORT": "httpx"}, "needs the fast path"),
    ],
)
def test_wrong_setting_is_said(settings: dict[str, Any], said: str) -> None:
    env = {**os.environ, **settings}
    command = [sys.executable, "-m", "gateway", "serve"]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_worker_that_hangs_is_ended_and_its_places_come_back(pair: tuple[Running, Running]) -> None:
    _, running = pair
    (worker,) = workers_of(running)
    with ExitStack() as stack:
        ask_all(many(stack, running), times=2)
        worker.suspend()
    until(lambda: "has not answered" in running.output, "it to be missed", 40)
    until(lambda: not worker.is_running(), "it to end")
    until(lambda: running.output.count("processes answer") == 2, "another one to be ready", 30)
