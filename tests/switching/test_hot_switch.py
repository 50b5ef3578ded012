"""Two real engine processes of which one fits: ask by name, get an answer, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from harness import Event, Running, events_of, owned, start_gateway, until

MIB = 2**20
ENGINE_BYTES = 150 * MIB
PAIR = ("a", "b")

Start = Callable[..., Running]


def pair(**options: Any) -> dict[str, Any]:
    """Two models of which the device holds one. ``options`` are those of both echo engines."""
    models = [owned(name, memory_bytes=ENGINE_BYTES, **options) | {"memory": "200MiB"} for name in PAIR]
    return {
        "models": models,
        "devices": [{"id": "ram", "memory": "300MiB", "reader": "process"}],
        "switching": {"max_wait_s": 2, "min_residency_s": 0.3, "backoff_initial_s": 0.5},
    }


def engines(running: Running, name: str | None = None) -> list[psutil.Process]:
    """The engine processes that exist now, of one model or of both."""
    found = []
    for process in running.children():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if "gateway.engine" in command and "supervisor.py" not in " ".join(command):
            found += [process] if name is None or command[command.index("--model-id") + 1] == name else []
    return found


def state(running: Running, name: str) -> str:
    return str(running.get(f"/v1/models/{name}").json()["state"])


def until_state(running: Running, name: str, *states: str, timeout_s: float = 15.0) -> None:
    until(lambda: state(running, name) in states, f"{name} to be {' or '.join(states)}", timeout_s)


def body(name: str, words: str = "one two three", **more: Any) -> dict[str, Any]:
    return {"model_id": name, "inputs": words, "scenario": "raw", "parameters": {"max_new_tokens": 8}, **more}


async def collected(client: httpx.AsyncClient, request: dict[str, Any]) -> list[Event]:
    async with client.stream("POST", "/v1/generate", json={**request, "stream": True}) as response:
        return [event async for event in events_of(response)]


@pytest.fixture(scope="module")
def switching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_gateway(tmp_path_factory.mktemp("switching"), pair(load_s=0.2, tokens_per_s=200))
    yield running
    running.stop()


async def test_everybody_is_answered_and_never_two_are_resident(switching: Running) -> None:
    """200 requests of 20 clients: alternating, bursty, plain and streamed."""
    most = 0

    async def watch(client: httpx.AsyncClient) -> None:
        nonlocal most
        while True:
            rows = (await client.get("/v1/models")).json()["data"]
            most = max(most, sum(row["state"] not in ("stopped", "failed") for row in rows))
            assert len(await asyncio.to_thread(engines, switching)) <= 1
            await asyncio.sleep(0.05)

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        dice = random.Random(number)
        for turn in range(10):
            name = PAIR[(number + turn) % 2] if number < 10 else dice.choices(PAIR, (3, 1))[0]
            words = f"client{number} turn{turn} model-{name}"
            if dice.random() < 0.5:
                answer = (await client.post("/v1/generate", json=body(name, words))).json()
            else:
                answer = (await collected(client, body(name, words)))[-1].data
            assert (answer["model_id"], answer["usage"]["completion_tokens"]) == (name, 8)
            assert words in answer["generated_text"]

    async with httpx.AsyncClient(base_url=switching.url, timeout=100) as client:
        watcher = asyncio.create_task(watch(client))
        await asyncio.gather(*(ask(client, number) for number in range(20)))
        assert not watcher.done()
        watcher.cancel()

    assert most == 1
    assert switching.metric("gateway_generations_open") == 0
    assert switching.metric("gateway_starts_total") >= 2


async def test_waiting_stream_says_how_the_wait_goes(switching: Running) -> None:
    async with httpx.AsyncClient(base_url=switching.url, timeout=60) as client:
        await client.post("/v1/generate", json=body("a"))

        quiet = await collected(client, body("b"))
        typed = await collected(client, body("a", events=True))

    assert quiet[0].name == ":"
    assert {event.name for event in quiet} == {":", "token", "done"}
    names = [event.name for event in typed]
    first_token = names.index("token")
    assert {"loading", "ready"} <= set(names[:first_token])
    waited = next(event.data for event in typed if event.name == "loading")
    assert (waited["model_id"], waited["position"]) == ("a", 1)
    receipt = typed[-1].data["receipt"]
    assert receipt["load_ms"] > 100  # the engine takes 200 ms to load
    assert receipt["queue_ms"] + receipt["load_ms"] < receipt["total_ms"]


async def test_plain_request_that_cannot_wait_gets_503_with_a_time(switching: Running) -> None:
    async with httpx.AsyncClient(base_url=switching.url, timeout=60) as client:
        for name in ("a", "b"):  # both have a history to compute from
            await client.post("/v1/generate", json=body(name))

        response = await client.post("/v1/generate", json=body("a", wait_s=0.05))

    assert (response.status_code, response.json()["error"]["type"]) == (503, "wait_timeout")
    assert int(response.headers["retry-after"]) >= 1


async def test_load_and_unload_by_hand(switching: Running) -> None:
    async with httpx.AsyncClient(base_url=switching.url, timeout=60) as client:
        loaded = await client.post("/v1/models/a/load")
        assert (loaded.status_code, loaded.headers["location"]) == (202, "/v1/models/a")
        await asyncio.to_thread(until_state, switching, "a", "ready")

        unloaded = await client.post("/v1/models/a/unload")
        assert unloaded.status_code == 202
        await asyncio.to_thread(until_state, switching, "a", "stopped")

    assert engines(switching) == []


async def test_events_stream_every_transition(switching: Running) -> None:
    seen: list[str] = []
    async with (
        httpx.AsyncClient(base_url=switching.url, timeout=60) as client,
        client.stream("GET", "/v1/events") as response,
    ):
        await client.post("/v1/models/a/unload", json={"force": True})
        await asyncio.to_thread(until_state, switching, "a", "stopped", "failed")
        asking = asyncio.create_task(client.post("/v1/generate", json=body("a")))
        async for event in events_of(response):
            if event.name == "model" and event.data["model_id"] == "a":
                seen.append(event.data["state"])
                if seen[-2:] == ["starting", "ready"] or len(seen) > 50:
                    break
        await asking

    assert "starting" in seen
    assert seen[-1] == "ready"


async def test_unload_drains_and_force_does_not(gateway: Start) -> None:
    running = gateway(pair(tokens_per_s=20))
    async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
        long = body("a", "word " * 100, stream=True) | {"parameters": {"max_new_tokens": 60}}
        for force, last in ((False, "done"), (True, "error")):
            async with client.stream("POST", "/v1/generate", json=long) as response:
                events = aiter(events_of(response))
                while (await anext(events)).name != "token":
                    pass
                await client.post("/v1/models/a/unload", json={"force": force})
                names = [event.name async for event in events]
            assert names[-1] == last
            await asyncio.to_thread(until_state, running, "a", "stopped")


async def test_engine_killed_mid_stream_is_an_error_for_one_and_nothing_for_the_next(gateway: Start) -> None:
    running = gateway(pair(tokens_per_s=20))
    async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
        async with client.stream("POST", "/v1/generate", json=body("a", stream=True)) as response:
            events = aiter(events_of(response))
            while (await anext(events)).name != "token":
                pass
            for process in engines(running, "a"):
                process.kill()
            last = [event async for event in events][-1]
        answer = await client.post("/v1/generate", json=body("a"))

    assert (last.name, last.data["error"]["type"]) == ("error", "engine_error")
    assert answer.status_code == 200
    assert running.metric("gateway_generations_open") == 0


async def test_engine_killed_while_it_loads_fails_who_waits_and_recovers(gateway: Start) -> None:
    running = gateway(pair(load_s=1))
    async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
        asking = asyncio.create_task(client.post("/v1/generate", json=body("a")))
        await asyncio.to_thread(until, lambda: engines(running, "a"), "the engine to start")
        for process in engines(running, "a"):
            process.kill()
        failed = await asking
        retry_after_s = int(failed.headers["retry-after"])
        again = await client.post("/v1/generate", json=body("a", wait_s=30))

    assert (failed.status_code, failed.json()["error"]["type"]) == (503, "model_unavailable")
    assert retry_after_s == 1  # the pause after a first failure is half a second
    assert again.status_code == 200
    assert running.metric("gateway_generations_open") == 0


async def test_killed_supervisor_takes_its_engine_along_and_is_replaced(gateway: Start) -> None:
    running = gateway(pair(tokens_per_s=20))
    async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
        async with client.stream("POST", "/v1/generate", json=body("a", stream=True)) as response:
            events = aiter(events_of(response))
            while (await anext(events)).name != "token":
                pass
            (engine,) = engines(running, "a")
            os.kill(engine.ppid(), signal.SIGKILL)
            last = [event async for event in events][-1]
        until(lambda: not engine.is_running(), "the engine to go with its supervisor")
        answer = await client.post("/v1/generate", json=body("a"))

    assert last.name == "error"
    assert answer.status_code == 200
    assert running.metric("gateway_generations_open") == 0


async def test_engine_that_goes_silent_is_recycled(gateway: Start) -> None:
    registry = pair(fail="hang")
    for record in registry["models"]:
        record["timeouts"] |= {"between_tokens_s": 0.5}
    running = gateway(registry)
    async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
        events = await collected(client, body("a", "one two three four five six seven"))
        (sick,) = engines(running, "a") or [None]
        short = await client.post("/v1/generate", json=body("a") | {"parameters": {"max_new_tokens": 2}})

    assert (events[-1].name, events[-1].data["error"]["type"]) == ("error", "engine_timeout")
    assert short.status_code == 200
    assert sick is None or not sick.is_running()


async def test_start_that_fails_says_why_and_when_to_come_back(gateway: Start) -> None:
    registry = pair(load_s=0.2, fail="load")
    registry["switching"] |= {"backoff_initial_s": 10}
    running = gateway(registry)
    async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
        first = await client.post("/v1/generate", json=body("a"))
        during_backoff = await client.post("/v1/generate", json=body("a", wait_s=0.01))

    for response in (first, during_backoff):
        assert response.status_code == 503
        assert "a could not be started" in response.json()["error"]["message"]
        assert response.headers["retry-after"]
    assert "Shard 0 failed to start" in first.json()["error"]["message"]


async def leave(url: str, request: dict[str, Any], when: Callable[[list[Event]], bool]) -> None:
    """Send a streamed request and close the connection as soon as ``when`` says so of what has come."""
    seen: list[Event] = []
    async with (
        httpx.AsyncClient(base_url=url, timeout=60) as client,
        client.stream("POST", "/v1/generate", json={**request, "stream": True, "events": True}) as response,
    ):
        async for event in events_of(response):
            seen.append(event)
            if when(seen):
                return
    raise AssertionError(f"the stream ended first: {seen}")


@pytest.mark.parametrize("place", ["queued", "loading", "before the first token", "back-off", "mid-stream"])
async def test_client_that_leaves_frees_its_place_wherever_it_is(gateway: Start, place: str) -> None:
    options: dict[str, Any] = {"load_s": 1.0, "tokens_per_s": 20}
    if place == "before the first token":
        options = {"first_token_s": 30}
    if place == "back-off":
        options = {"fail": "load"}
    registry = pair(**options)
    registry["switching"] |= {"max_wait_s": 60, "backoff_initial_s": 30}
    running = gateway(registry)

    async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
        await PLACES[place](running, client)
    until(lambda: running.metric("gateway_generations_open") == 0, "its place to be free", 5)
    rows = running.get("/v1/models").json()["data"]
    assert [(row["waiting"], row["in_flight"]) for row in rows] == [(0, 0), (0, 0)]
    assert "Traceback" not in running.output


async def leave_queued(running: Running, client: httpx.AsyncClient) -> None:
    long = body("a", "word " * 100, stream=True) | {"parameters": {"max_new_tokens": 80}}
    async with client.stream("POST", "/v1/generate", json=long) as response:
        events = aiter(events_of(response))
        while (await anext(events)).name != "token":
            pass
        await leave(running.url, body("b"), lambda seen: seen[-1].name == "queued")


async def leave_loading(running: Running, client: httpx.AsyncClient) -> None:
    await leave(running.url, body("a"), lambda seen: seen[-1].name == "loading")
    # Nobody waits any more: the load is called off.
    await asyncio.to_thread(until_state, running, "a", "stopped")


async def leave_before_the_first_token(running: Running, client: httpx.AsyncClient) -> None:
    asking = asyncio.create_task(client.post("/v1/generate", json=body("a", stream=True)))
    await asyncio.to_thread(until, lambda: state(running, "a") == "ready", "the model")
    in_flight = lambda: running.get("/v1/models/a").json()["in_flight"] == 1  # noqa: E731
    await asyncio.to_thread(until, in_flight, "the request in the engine")
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def leave_in_backoff(running: Running, client: httpx.AsyncClient) -> None:
    failed = await client.post("/v1/generate", json=body("a"))
    assert failed.status_code == 503
    await leave(running.url, body("a", wait_s=60), lambda seen: len(seen) >= 1)


async def leave_mid_stream(running: Running, client: httpx.AsyncClient) -> None:
    request = body("a", "word " * 100) | {"parameters": {"max_new_tokens": 80}}
    await leave(running.url, request, lambda seen: seen[-1].name == "token")


PLACES = {
    "queued": leave_queued,
    "loading": leave_loading,
    "before the first token": leave_before_the_first_token,
    "back-off": leave_in_backoff,
    "mid-stream": leave_mid_stream,
}


def test_gateway_that_ends_leaves_no_process(tmp_path: Path) -> None:
    running = start_gateway(tmp_path, pair())
    try:
        httpx.post(running.url + "/v1/generate", json=body("a"), timeout=30)
        children = running.children()
    finally:
        status = running.stop()
    assert status == 0
    assert len(children) >= 3  # two supervisors, one engine

    until(lambda: not any(child.is_running() for child in children), "every child to be gone")


def test_killed_gateway_leaves_no_process(tmp_path: Path) -> None:
    running = start_gateway(tmp_path, pair())
    try:
        httpx.post(running.url + "/v1/generate", json=body("a"), timeout=30)
        children = running.children()
    finally:
        running.process.kill()
        running.process.wait()

    until(lambda: not any(child.is_running() for child in children), "every child to be gone", 20)
