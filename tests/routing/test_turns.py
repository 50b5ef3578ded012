"""Two engines of which one fits, behind one split: few switches, true weights, nobody starves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import Running, owned, start_gateway

MIB = 2**20


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("turns")
    models = [owned(name, memory_bytes=100 * MIB) | {"memory": "150MiB"} for name in "ab"]
    registry = {
        "models": models,
        "devices": [{"id": "ram", "memory": "200MiB"}],
        "switching": {"max_wait_s": 2, "min_residency_s": 0.2},
        "aliases": {
            "turns": {"split": {"a": 1, "b": 1}, "block_s": 0},
            "keyed": {"split": {"a": 1, "b": 1}},
        },
    }
    running = start_gateway(folder, registry)
    yield running
    running.stop()


def starts(running: Running) -> float:
    return running.metric("gateway_starts_total")


async def ask(client: httpx.AsyncClient, alias: str, **more: Any) -> dict[str, Any]:
    sent = {"model_id": alias, "inputs": "x", "parameters": {"max_new_tokens": 3}, **more}
    response = await client.post("/v1/generate", json=sent)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def test_one_after_the_other_switches_five_times_in_two_hundred(device: Running) -> None:
    """A draw for each request would switch about a hundred times."""
    before = starts(device)
    async with httpx.AsyncClient(base_url=device.url, timeout=60) as client:
        answers = [await ask(client, "turns") for _ in range(200)]

    arms = "".join(answer["arm"] for answer in answers)
    assert starts(device) - before <= 6
    assert Counter(arms) == {"a": 100, "b": 100}
    assert [len(turn) for turn in arms.replace("ab", "a b").replace("ba", "b a").split()] == [
        20,
        40,
        40,
        40,
        40,
        20,
    ]
    arms_seen = {arm["arm"]: arm for arm in device.get("/v1/experiments/turns").json()["arms"]}
    loads = sum(arm["switching"]["loads"] for arm in arms_seen.values())
    cold = [answer for answer in answers if answer["receipt"]["load_ms"] > 0]
    assert loads == starts(device) - before == len(cold)
    for name, arm in arms_seen.items():
        own = [answer for answer in cold if answer["arm"] == name]
        waited_s = sum(answer["receipt"]["load_ms"] for answer in own) / 1000
        assert arm["cold"]["requests"] == arm["cold"]["total_ms"]["count"] == len(own)
        assert arm["total_ms"]["count"] == 100 - len(own)
        assert arm["switching"]["waited_s"] == pytest.approx(waited_s, abs=0.01)
        assert arm["switching"]["load_s"] >= arm["switching"]["waited_s"] - 0.01 > 0


async def test_sessions_side_by_side_are_batched_and_none_starves(device: Running) -> None:
    """Keys leave no choice, so the scheduler collects who waits: a switch for each request would be 100."""
    before = starts(device)

    async def session(client: httpx.AsyncClient, number: int) -> list[dict[str, Any]]:
        return [await ask(client, "keyed", session=f"session {number}") for _ in range(10)]

    async with httpx.AsyncClient(base_url=device.url, timeout=60) as client:
        answers = await asyncio.gather(*(session(client, number) for number in range(10)))

    assert all(len({answer["arm"] for answer in mine}) == 1 for mine in answers)
    assert {mine[0]["arm"] for mine in answers} == {"a", "b"}
    assert starts(device) - before <= 25
    waits_s = [answer["receipt"]["queue_ms"] / 1000 for mine in answers for answer in mine]
    # max_wait_s, and until the other has handed over.
    assert max(waits_s) < 2 + 5
