"""Twice the load that saturates, on a real gateway and the calibrated engine. Ratios within one run only."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import httpx
import pytest
from harness import Running, model, start_echo, start_gateway

from gateway.engine.speed import speed_of

SPEED, SCALE = "qwen2-7b-gptq-int4", 0.5
"""Slow, so that neither the gateway nor this client is what saturates, also where others use the machine."""
SLOTS, QUEUE, TOKENS = 8, 24, 30
PEAK_S, OVERLOAD_S = 4.0, 10.0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("overload")
    engine = start_echo(folder, speed=SPEED, speed_scale=SCALE, load_s=0)
    limits = {"max_concurrent": SLOTS, "max_queue": QUEUE}
    running = start_gateway(folder, {"models": [model(engine.url, limits=limits)]})
    yield running
    running.stop()
    engine.stop()


@dataclass
class Tally:
    """Answers with the time of their end, and what became of those who were refused."""

    ends_s: list[float] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)
    total_ms: list[float] = field(default_factory=list)
    refused: int = 0
    returned: int = 0
    let_in: int = 0
    statuses: set[int] = field(default_factory=set)

    def note(self, answer: httpx.Response, now: float) -> bool:
        self.statuses.add(answer.status_code)
        if answer.status_code != 200:
            return False
        receipt: dict[str, Any] = answer.json()["receipt"]
        self.ends_s.append(now)
        self.decode_ms.append(receipt["decode_ms"])
        self.total_ms.append(receipt["total_ms"])
        return True

    def rate(self, since: float, until: float) -> float:
        return sum(since <= end <= until for end in self.ends_s) / (until - since)


class Load:
    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self._url = f"{url}/v1/generate"
        self._numbers = itertools.count(1)

    def body(self) -> dict[str, Any]:
        words = f"n{next(self._numbers)} b c"
        return {
            "model_id": "echo",
            "inputs": words,
            "scenario": "raw",
            "parameters": {"max_new_tokens": TOKENS},
        }

    async def send(self, body: dict[str, Any]) -> httpx.Response:
        return await self._http.post(self._url, json=body)

    async def peak(self) -> tuple[Tally, float]:
        """As many clients as fill the slots and some of the queue, one request after the other."""
        tally, loop = Tally(), asyncio.get_running_loop()
        begun = loop.time()

        async def client() -> None:
            while loop.time() < begun + PEAK_S:
                tally.note(await self.send(self.body()), loop.time())

        await asyncio.gather(*(client() for _ in range(SLOTS + SLOTS // 2)))
        return tally, tally.rate(begun + 1, begun + PEAK_S)

    async def overload(self, rate: float) -> tuple[Tally, float]:
        """Requests come at this rate, whatever becomes of them. Who is refused comes back once, as told."""
        tally, loop, rng = Tally(), asyncio.get_running_loop(), random.Random(1)
        begun = loop.time()

        async def client() -> None:
            body = self.body()
            answer = await self.send(body)
            if tally.note(answer, loop.time()):
                return
            tally.refused += 1
            assert answer.status_code == 429
            told_s = float(answer.headers["retry-after"])
            if loop.time() + told_s < begun + OVERLOAD_S:
                await asyncio.sleep(told_s)
                again = await self.send(body)
                tally.returned += 1
                tally.let_in += tally.note(again, loop.time())

        clients = []
        at = begun
        while at < begun + OVERLOAD_S:
            clients.append(asyncio.create_task(client()))
            at += rng.expovariate(rate)
            await asyncio.sleep(max(0.0, at - loop.time()))
        await asyncio.gather(*clients)
        return tally, tally.rate(begun + 2, begun + OVERLOAD_S)


async def test_overload_costs_nobody_who_was_admitted_and_retry_after_proves_true(gateway: Running) -> None:
    # A connection of its own for each: one that is kept may be closed by the other side just as it is used.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=60, limits=limits, trust_env=False) as http:
        load = Load(http, gateway.url)
        at_peak, peak = await load.peak()
        # A machine that is busy now may do less than the engine's schedule; it must be too much all the same.
        step_s = speed_of(SPEED).scaled(SCALE).decode(SLOTS, 0)
        overloaded, throughput = await load.overload(2 * max(peak, SLOTS / (TOKENS * step_s)))
    assert at_peak.statuses == {200}
    assert overloaded.statuses == {200, 429}
    assert overloaded.refused > 20
    assert throughput > 0.6 * peak
    assert median(overloaded.decode_ms) < 2 * median(at_peak.decode_ms)
    # Nobody waits longer than the queue is long: it holds so many rounds of the slots.
    assert max(overloaded.total_ms) < 4 * (1 + QUEUE / SLOTS) * median(at_peak.decode_ms)
    assert overloaded.returned > 10
    assert overloaded.let_in >= 0.7 * overloaded.returned
