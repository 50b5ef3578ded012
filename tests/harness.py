"""Real processes for tests: engines and gateways on free ports, and what is needed to talk to them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from pydantic_core import from_json

from gateway.wire.sse import SseComment, SseDecoder

REPOSITORY = Path(__file__).parent.parent
START_S = 30.0
STOP_S = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], what: str, timeout_s: float = 15.0) -> Any:
    """The first truthy value of ``condition``; at the deadline, a failure that says ``what`` did not come."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {what}")


@dataclass(slots=True)
class Running:
    """A process that listens."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=10)

    def metric(self, name: str) -> float:
        """The sum of all samples of a metric, over all labels."""
        lines = self.get("/metrics").text.splitlines()
        samples = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in samples)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> int:
        """End it in order; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def launch(command: list[str], url: str, log: Path, env: Mapping[str, str] | None = None) -> Running:
    """Start a process and wait until it listens at ``url``."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
        )
    running = Running(url, process, log)

    def listens() -> bool:
        assert process.poll() is None, f"it ended with {process.returncode}:\n{running.output}"
        try:
            httpx.get(url + "/health", timeout=2)
        except httpx.TransportError:
            return False
        return True

    until(listens, f"{command} to listen", START_S)
    return running


def echo_command(port: int | str, *, python: str = sys.executable, **options: Any) -> list[str]:
    """The command line of an echo engine; options are those of ``python -m gateway.engine``."""
    extra = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return [python, "-m", "gateway.engine", "--backend", "echo", "--port", str(port), *extra]


def start_echo(folder: Path, **options: Any) -> Running:
    port = free_port()
    command = echo_command(port, **{"model_id": "echo", **options})
    return launch(command, f"http://127.0.0.1:{port}", folder / f"engine-{port}.log")


def start_gateway(folder: Path, registry: Mapping[str, Any], **settings: Any) -> Running:
    """A gateway of its own process. ``settings`` become GATEWAY_… variables.

    With TESTS_WORKERS=2 in the environment, every one that is started here has a worker, but for those that
    cannot have any: with traces there is no fast path.
    """
    port = free_port()
    config = folder / f"models-{port}.yaml"
    config.write_text(yaml.safe_dump(dict(registry)), encoding="utf-8")
    env = {f"GATEWAY_{name.upper()}": str(value) for name, value in settings.items()}
    env |= {"GATEWAY_CONFIG": str(config), "GATEWAY_PORT": str(port), "GATEWAY_RUN_DIR": str(folder / "run")}
    if not {"otlp_endpoint", "transport"} & {*settings}:
        env = {"GATEWAY_WORKERS": os.environ.get("TESTS_WORKERS", ""), **env}
    command = [sys.executable, "-m", "gateway", "serve"]
    running = launch(command, f"http://127.0.0.1:{port}", folder / f"gateway-{port}.log", env)
    if int(env.get("GATEWAY_WORKERS") or 1) > 1:
        until(lambda: "processes answer" in running.output, "the workers to be ready", START_S)
    return running


def model(url: str, **record: Any) -> dict[str, Any]:
    """A registry record for an engine that runs already."""
    return {"id": "echo", "family": "chatml", "url": url, **record}


def owned(name: str, **options: Any) -> dict[str, Any]:
    """A registry record for an echo engine that the gateway starts and stops itself."""
    return {
        "id": name,
        "family": "chatml",
        "command": echo_command("{port}", python="{python}", model_id=name, **options),
        "timeouts": {"stop_grace_s": 5},
        "probes": {"interval_s": 0.5, "fails": 2},
    }


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event, or a comment (name ``:``)."""

    name: str
    data: Any


async def events_of(response: httpx.Response) -> AsyncIterator[Event]:
    """Events and comments of a stream as they arrive."""
    decoder = SseDecoder()
    async for chunk in response.aiter_raw():
        for found in decoder.feed(chunk):
            if isinstance(found, SseComment):
                yield Event(":", found.text)
            else:
                yield Event(found.event, from_json(found.data))
