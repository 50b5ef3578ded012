"""The end of a gateway that has answers under way: each dialect is told, and no traceback is printed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import REPOSITORY, Running, model, start_echo, start_gateway, until

TEXT = "word " * 400
MESSAGES = [{"role": "user", "content": TEXT}]
STREAMS: dict[str, tuple[str, dict[str, Any], bytes]] = {
    "native": ("/v1/generate", {"inputs": TEXT, "scenario": "raw", "stream": True}, b"event: error\ndata: {"),
    "chat": ("/v1/chat/completions", {"messages": MESSAGES, "stream": True}, b'data: {"error":{"message"'),
    "anthropic": (
        "/v1/messages",
        {"model": "echo", "messages": MESSAGES, "max_tokens": 400, "stream": True},
        b'event: error\ndata: {"type":"error"',
    ),
    "tgi": ("/generate_stream", {"inputs": TEXT}, b'data: {"error":"'),
}


@pytest.fixture
def slow(tmp_path: Path) -> Any:
    """A gateway in front of a slow engine, with little time for its end."""
    engine = start_echo(tmp_path, tokens_per_s=5)
    running = start_gateway(tmp_path, {"models": [model(engine.url)]}, drain_s=1)
    yield running
    running.stop()
    engine.stop()


async def streamed(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> bytes:
    async with client.stream("POST", path, json=body) as response:
        return await response.aread()


def in_flight(running: Running) -> int:
    return int(running.get("/v1/models/echo").json()["in_flight"])


async def test_streams_that_the_end_cuts_off_are_told_in_their_dialect(slow: Running) -> None:
    async with httpx.AsyncClient(base_url=slow.url, timeout=30) as client:
        asked = [asyncio.create_task(streamed(client, path, body)) for path, body, _ in STREAMS.values()]
        plain = asyncio.create_task(client.post("/v1/generate", json={"inputs": TEXT}))
        await asyncio.to_thread(until, lambda: in_flight(slow) == len(STREAMS) + 1, "all to run")
        slow.process.terminate()
        bodies = await asyncio.gather(*asked)
        refused = await plain

    for body, (_, _, opening) in zip(bodies, STREAMS.values(), strict=True):
        last = body.strip().rpartition(b"\n\n")[2]
        assert last.startswith(opening)
        assert b"The gateway is shutting down." in last
    assert (refused.status_code, refused.json()["error"]["type"]) == (503, "model_unavailable")
    assert slow.process.wait(20) == 0
    assert "Traceback" not in slow.output


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
async def test_second_signal_ends_it_at_once_and_quietly(
    echo: Callable[..., Running], gateway: Callable[..., Running], signals: tuple[signal.Signals, ...]
) -> None:
    engine = echo(tokens_per_s=5)
    running = gateway({"models": [model(engine.url)]}, drain_s=60)
    path, body, _ = STREAMS["native"]
    async with httpx.AsyncClient(base_url=running.url, timeout=30) as client:
        asked = asyncio.create_task(streamed(client, path, body))
        await asyncio.to_thread(until, lambda: in_flight(running) == 1, "it to run")
        running.process.send_signal(signals[0])
        until(lambda: "Waiting for connections" in running.output, "the drain")
        running.process.send_signal(signals[1])
        await asyncio.gather(asked, return_exceptions=True)
    running.process.wait(20)
    assert "Traceback" not in running.output


def test_ctrl_c_while_the_program_is_still_being_read_prints_nothing(tmp_path: Path) -> None:
    env = {**os.environ, "GATEWAY_RUN_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "gateway", "serve"]
    with subprocess.Popen(command, cwd=REPOSITORY, env=env, stderr=subprocess.PIPE, text=True) as process:
        maps = Path("/proc", str(process.pid), "maps")
        until(lambda: "pydantic_core" in maps.read_text(), "the program to be in the middle of its imports")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (-signal.SIGINT, "")


def test_make_down_stops_every_gateway_of_the_folder(gateway: Callable[..., Running], tmp_path: Path) -> None:
    registry = {"models": [model("http://127.0.0.1:1")]}
    first, second = gateway(registry), gateway(registry)
    folder = tmp_path / "run"
    port = second.url.rsplit(":", 1)[1]
    assert (folder / "gateway.pid").read_text() == str(first.process.pid)
    assert (folder / f"gateway-{port}.pid").read_text() == str(second.process.pid)

    env = {**os.environ, "GATEWAY_RUN_DIR": str(folder)}
    down = [str(REPOSITORY / "scripts" / "down.sh")]
    # The stopped processes are our children: somebody has to take note of their ends while the script looks.
    with subprocess.Popen(down, env=env, stdout=subprocess.PIPE, text=True) as script:
        assert [one.process.wait(20) for one in (first, second)] == [0, 0]
        assert script.communicate(timeout=20)[0] == "Stopped.\n"
    assert not list(folder.glob("*.pid"))


@pytest.mark.parametrize("left", ["1", "not a number", ""])
def test_pid_file_of_nobody_is_taken_over(gateway: Callable[..., Running], tmp_path: Path, left: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "gateway.pid").write_text(left)
    running = gateway({"models": [model("http://127.0.0.1:1")]})
    assert (tmp_path / "run" / "gateway.pid").read_text() == str(running.process.pid)
