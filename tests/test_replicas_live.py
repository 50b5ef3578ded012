"""Several real engines behind one model: spread, killed under load, hanging, full, and found by name."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from harness import Running, echo_command, events_of, free_port, launch, model, start_echo, until

from gateway.main import create_app
from gateway.registry import parse
from gateway.settings import Settings
from gateway.upstream.names import LookUp

PROMPT = {"inputs": "a b c d e f g h i j", "scenario": "raw"}
SOON = {"interval_s": 0.3, "timeout_s": 2, "fails": 2}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Running]]:
    """Two engines without any delay."""
    yield from started(tmp_path_factory.mktemp("quick"), 2)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Running]]:
    """Three engines that take one request at a time."""
    yield from started(tmp_path_factory.mktemp("narrow"), 3, max_concurrent=1, tokens_per_s=20)


def started(folder: Path, count: int, **options: Any) -> Iterator[list[Running]]:
    engines = [start_echo(folder, **options) for _ in range(count)]
    yield engines
    for engine in engines:
        engine.stop()


def several(engines: Sequence[Running], **record: Any) -> dict[str, Any]:
    first, *others = engines
    return {"models": [model(first.url, replicas=[other.url for other in others], probes=SOON, **record)]}


def requests_at(engine: Running) -> int:
    return int(engine.metric("tgi_request_count"))


def rows(gateway: Running) -> dict[str, dict[str, Any]]:
    """What the gateway shows of each replica, by address."""
    return {row["url"]: row for row in gateway.get("/v1/models/echo").json()["replicas"]}


def state_of(gateway: Running, engine: Running) -> str:
    return str(rows(gateway)[engine.url]["state"])


async def ask(http: httpx.AsyncClient, tokens: int = 10) -> httpx.Response:
    body = {**PROMPT, "parameters": {"max_new_tokens": tokens}}
    return await http.post("/v1/generate", json=body)


async def eventually(holds: Callable[[], Awaitable[Any]], what: str, timeout_s: float = 15.0) -> Any:
    try:
        async with asyncio.timeout(timeout_s):
            while not (value := await holds()):
                await asyncio.sleep(0.02)
            return value
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s} s: {what}") from None


@asynccontextmanager
async def held(http: httpx.AsyncClient) -> AsyncIterator[None]:
    """A stream that stays open and has begun."""
    body = {"inputs": "word " * 300}
    async with http.stream("POST", "/generate_stream", json=body) as response:
        assert response.status_code == 200
        chunks = response.aiter_raw()  # closes the stream when nothing refers to it any more
        await anext(chunks)
        yield
        await chunks.aclose()  # type: ignore[attr-defined]


# ---------------------------------------------------------------- choice


async def test_requests_are_spread_and_slow_engines_get_fewer(
    gateway: Any, echo: Any, quick: list[Running]
) -> None:
    engines = [*quick, slow := echo(tokens_per_s=25)]
    running = gateway(several(engines))
    before = [requests_at(engine) for engine in engines]
    async with httpx.AsyncClient(base_url=running.url, timeout=20) as http:
        for _ in range(12):
            assert (await ask(http, tokens=1)).status_code == 200
        assert [requests_at(engine) - count for engine, count in zip(engines, before, strict=True)] == [4] * 3

        async def client() -> None:
            for _ in range(12):
                assert (await ask(http)).status_code == 200

        await asyncio.gather(*(client() for _ in range(4)))

    assert sum(requests_at(engine) for engine in engines) - sum(before) == 12 + 48
    assert requests_at(slow) - 4 <= 12
    assert all(row["outstanding"] == 0 and row["state"] == "ready" for row in rows(running).values())


async def test_max_concurrent_counts_for_each_replica_that_is_there(
    gateway: Any, narrow: list[Running]
) -> None:
    running = gateway(several(narrow[:2], limits={"max_concurrent": 1, "max_queue": 0}))
    async with httpx.AsyncClient(base_url=running.url, timeout=20) as http, held(http), held(http):
        assert sorted(row["outstanding"] for row in rows(running).values()) == [1, 1]
        assert (await ask(http)).status_code == 429


# ---------------------------------------------------------------- killed under load


class Load:
    """Clients that ask again and again; what became of each request."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.ended = False
        self.answered = self.broke_off = 0
        self.lost: list[str] = []

    async def client(self, *, stream: bool) -> None:
        while not self.ended:
            await (self._streamed() if stream else self._plain())

    async def _plain(self) -> None:
        response = await ask(self._http)
        if response.status_code == 200 and response.json()["finish_reason"] == "length":
            self.answered += 1
        else:
            self.lost.append(f"plain {response.status_code} {response.text}")

    async def _streamed(self) -> None:
        body = {**PROMPT, "stream": True, "parameters": {"max_new_tokens": 10}}
        async with self._http.stream("POST", "/v1/generate", json=body) as response:
            if response.status_code != 200:
                self.lost.append(f"stream {response.status_code} {(await response.aread()).decode()}")
                return
            names = [event.name async for event in events_of(response)]
        if names[-1] == "done":
            self.answered += 1
        elif "token" in names:
            self.broke_off += 1
        else:
            self.lost.append(f"stream {names}")


async def test_an_engine_killed_under_load_loses_no_request_that_had_not_begun_to_stream(
    gateway: Any, echo: Any, tmp_path: Path
) -> None:
    pace = {"tokens_per_s": 60, "first_token_s": 0.15}
    engines = [echo(**pace) for _ in range(3)]
    victim = engines[1]
    running = gateway(several(engines))
    async with httpx.AsyncClient(base_url=running.url, timeout=30) as http:
        load = Load(http)
        clients = [asyncio.create_task(load.client(stream=index % 2 == 0)) for index in range(40)]
        await eventually(lambda: _true(load.answered >= 40), "the load to run")

        victim.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(victim.process.wait)
        at_the_kill = load.answered
        await eventually(lambda: _true(load.answered >= at_the_kill + 80), "the others to carry on")
        assert await asyncio.to_thread(state_of, running, victim) == "down"

        again = await asyncio.to_thread(restarted, victim, tmp_path, pace)
        try:
            await asyncio.to_thread(until, lambda: state_of(running, victim) == "ready", "it to be back")
            await asyncio.to_thread(until, lambda: requests_at(again) > 5, "it to get requests")
            load.ended = True
            await asyncio.gather(*clients)
        finally:
            again.stop()

    assert load.lost == []
    assert running.metric("gateway_retries_total") > 0
    assert load.broke_off < 40


def restarted(engine: Running, folder: Path, options: dict[str, Any]) -> Running:
    """The same engine at the same address once more."""
    port = engine.url.rpartition(":")[2]
    return launch(echo_command(port, model_id="echo", **options), engine.url, folder / f"again-{port}.log")


async def _true(value: bool) -> bool:
    return value


# ---------------------------------------------------------------- hanging, full, gone


async def test_an_engine_that_hangs_is_ejected_after_its_clock_and_tried_again_later(
    gateway: Any, echo: Any, quick: list[Running]
) -> None:
    good, bad = quick[0], echo(fail="hang", fail_after_tokens=0)
    routing = {"eject_after": 2, "eject_s": 1.0}
    running = gateway(several([good, bad], timeouts={"first_token_s": 1.0}, routing=routing))
    async with httpx.AsyncClient(base_url=running.url, timeout=20) as http:
        while state_of(running, bad) != "ejected":
            assert (await ask(http)).status_code in (200, 504)
        ejected_at = time.monotonic()
        assert requests_at(bad) == 2
        assert "2 requests in a row failed" in rows(running)[bad.url]["reason"]
        assert running.metric("gateway_retries_total") == 0

        answers = []
        while requests_at(bad) == 2:
            answers.append((await ask(http)).status_code)
        trial_took_s = 1.0
        assert time.monotonic() - ejected_at >= 0.9 + trial_took_s
        assert answers[-1] == 504
        assert set(answers[:-1]) == {200}
        assert state_of(running, bad) == "ejected"


async def test_an_engine_that_is_full_hands_over_to_one_with_room(
    gateway: Any, narrow: list[Running], quick: list[Running]
) -> None:
    full, other = narrow[0], quick[0]
    before = requests_at(full), requests_at(other)
    running = gateway(several([full, other]))
    async with (
        httpx.AsyncClient(base_url=full.url, timeout=20) as outsider,
        httpx.AsyncClient(base_url=running.url, timeout=20) as http,
        held(outsider),
    ):
        assert [(await ask(http)).status_code for _ in range(4)] == [200] * 4

    assert state_of(running, full) == "ready"
    assert requests_at(full) == before[0] + 2  # the outsider's, and one that found it full
    assert requests_at(other) == before[1] + 4
    assert 'gateway_retries_total{model="echo",why="overloaded"} 1.0' in running.get("/metrics").text


async def test_retries_are_not_a_storm(gateway: Any, narrow: list[Running]) -> None:
    routing = {"retry_share": 0, "retry_floor_per_s": 0.1}  # three at first, then one in ten seconds
    running = gateway(several(narrow, routing=routing))
    before = sum(requests_at(engine) for engine in narrow) + len(narrow)
    async with AsyncExitStack() as stack:
        for engine in narrow:
            outsider = await stack.enter_async_context(httpx.AsyncClient(base_url=engine.url, timeout=20))
            await stack.enter_async_context(held(outsider))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=running.url, timeout=20))
        answers = await asyncio.gather(*(ask(http) for _ in range(20)))

    assert {answer.status_code for answer in answers} == {429}
    assert "has all the requests that it takes" in answers[0].json()["error"]["message"]
    assert sum(requests_at(engine) for engine in narrow) - before in (23, 24)


# ---------------------------------------------------------------- by name


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_config=None, ws="none", timeout_graceful_shutdown=1)
    )
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve())
    try:
        await eventually(lambda: _true(server.started or task.done()), "the gateway to listen")
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
            yield http
    finally:
        server.should_exit = True
        await task


def gateway_for(url: str, look_up: LookUp, folder: Path) -> FastAPI:
    record = model(url, probes=SOON, routing={"resolve_s": 0.05})
    registry = parse({"models": [record]}, "test", families={"chatml"}, engines={"tgi"})
    return create_app(Settings(run_dir=folder), registry, look_up=look_up)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Running]]:
    """Two engines on one port of two addresses, as containers of one service have them."""
    folder, port, running = tmp_path_factory.mktemp("pair"), free_port(), []
    for host in ("127.0.0.2", "127.0.0.3"):
        command = echo_command(port, host=host, model_id="echo", tokens_per_s=100)
        running.append(launch(command, f"http://{host}:{port}", folder / f"{host}.log"))
    yield running
    for engine in running:
        engine.stop()


async def test_every_address_of_a_name_is_a_replica_and_changes_are_followed(
    pair: Any, tmp_path: Path
) -> None:
    old, new = pair
    port = old.url.rpartition(":")[2]
    addresses: list[str] = ["127.0.0.2"]
    asked: list[tuple[str, int]] = []

    async def look_up(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        if not addresses:
            raise OSError(-2, "Name or service not known")
        return addresses

    async with serving(gateway_for(f"http://engines.test:{port}", look_up, tmp_path)) as http:

        async def states() -> dict[str, str]:
            shown = (await http.get("/v1/models/echo")).json()["replicas"]
            return {row["url"].removeprefix("http://").partition(":")[0]: row["state"] for row in shown}

        async def is_so(expected: dict[str, str]) -> bool:
            return await states() == expected

        assert await states() == {"127.0.0.2": "ready"}
        assert asked[0] == ("engines.test", int(port))
        assert (await ask(http)).status_code == 200

        addresses[:] = ["127.0.0.3", "127.0.0.2"]
        both = {"127.0.0.2": "ready", "127.0.0.3": "ready"}
        await eventually(lambda: is_so(both), "the new address to be used")
        before = requests_at(new)
        assert [(await ask(http, tokens=1)).status_code for _ in range(4)] == [200] * 4
        assert requests_at(new) == before + 2

        streams = [held(http) for _ in range(2)]
        async with streams[0], streams[1]:
            addresses[:] = ["127.0.0.3"]
            drains = {"127.0.0.2": "draining", "127.0.0.3": "ready"}
            await eventually(lambda: is_so(drains), "the old address to drain")
            count = requests_at(old)
            assert [(await ask(http, tokens=1)).status_code for _ in range(4)] == [200] * 4
            assert requests_at(old) == count
        await eventually(lambda: is_so({"127.0.0.3": "ready"}), "the old address to be forgotten")

        addresses.clear()
        looked = len(asked)
        await eventually(lambda: _true(len(asked) > looked + 3), "the resolver to fail")
        assert await states() == {"127.0.0.3": "ready"}
        assert (await ask(http)).status_code == 200


async def test_a_resolver_that_hangs_holds_nothing_up(pair: Any, tmp_path: Path) -> None:
    """Before the first answer the name itself is the only address, and the system resolves it."""
    port = pair[0].url.rpartition(":")[2]
    hanging = asyncio.Event()

    async def look_up(host: str, port: int) -> Sequence[str]:
        await hanging.wait()
        return ["127.0.0.3"]

    async with serving(gateway_for(f"http://engines.test:{port}", look_up, tmp_path)) as http:
        assert (await http.get("/health")).status_code == 200
        assert (await ask(http)).status_code == 503

        hanging.set()

        async def answers() -> bool:
            return (await ask(http)).status_code == 200

        await eventually(answers, "the model to answer")
