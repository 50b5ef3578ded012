"""What `make up` starts: two real models of which one fits, asked as the printed hints say."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from harness import Running, free_port, launch, until

from gateway.engine.weights import Q4_1_FILE, Q8_0_FILE, cache_folder

MODELS = ("smollm2", "smollm2-q8")

pytestmark = [
    pytest.mark.weights,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not all((cache_folder() / name).is_file() for name in (Q4_1_FILE, Q8_0_FILE)),
        reason="the small models are not in the cache: make fetch-models",
    ),
]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, port = tmp_path_factory.mktemp("up"), free_port()
    env = {
        "GATEWAY_CONFIG": "models/local.yaml",
        "GATEWAY_PORT": str(port),
        "GATEWAY_RUN_DIR": str(folder / "run"),
    }
    command = [sys.executable, "-m", "gateway", "serve", "--hints"]
    running = launch(command, f"http://127.0.0.1:{port}", folder / "up.log", env)
    yield running
    children = running.children()
    assert running.stop() == 0
    until(lambda: not any(child.is_running() for child in children), "every process to be gone")


def hinted(up: Running) -> list[str]:
    """The commands that stand in the hints."""
    until(lambda: "Stop: Ctrl-C" in up.output, "the hints")
    return [line.strip() for line in up.output.splitlines() if line.startswith("  curl ")]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_hinted_command_works_when_pasted(up: Running) -> None:
    plain, stream, other = (
        subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=100, check=True
        ).stdout
        for command in hinted(up)
    )

    assert "Paris" in json.loads(plain)["generated_text"]
    assert stream.count("event: token") > 5
    assert stream.rstrip().rsplit("event: ", 1)[1].startswith("done")
    assert json.loads(other)["model_id"] == MODELS[1]


async def test_both_real_models_answer_many_clients_and_never_two_are_resident(up: Running) -> None:
    """The whole of it once more with real weights; the echo engines do it at greater length."""
    most = 0

    async def watch(client: httpx.AsyncClient) -> None:
        nonlocal most
        while True:
            rows = (await client.get("/v1/models")).json()["data"]
            most = max(most, sum(row["state"] not in ("stopped", "failed") for row in rows))
            await asyncio.sleep(0.1)

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        dice = random.Random(number)
        for turn in range(5):
            name = MODELS[(number + turn) % 2] if number < 5 else dice.choice(MODELS)
            body: dict[str, Any] = {
                "model_id": name,
                "inputs": f"Say {turn}.",
                "parameters": {"max_new_tokens": 3},
            }
            answer = (await client.post("/v1/generate", json=body)).json()
            assert answer["model_id"] == name
            assert 1 <= answer["usage"]["completion_tokens"] <= 3

    async with httpx.AsyncClient(base_url=up.url, timeout=200) as client:
        watcher = asyncio.create_task(watch(client))
        await asyncio.gather(*(ask(client, number) for number in range(20)))
        assert not watcher.done()
        watcher.cancel()

    assert most == 1
    assert up.metric("gateway_generations_open") == 0


def test_gateway_process_stays_small(up: Running) -> None:
    assert psutil.Process(up.process.pid).memory_info().rss < 90e6
