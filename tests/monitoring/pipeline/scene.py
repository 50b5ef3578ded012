"""What happens: models that take turns on a device, errors of every kind, and clients that leave.

Everything is provoked for real: engines that die, queues that are full, cards that vanish. Only a load test's
own figures are sent by the test, as a load generator sends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import REPOSITORY, STOP_S, Running, echo_command, free_port, model, start_echo, start_gateway
from traffic import Clients, Tally, paced

MIB = 2**20
LASTING_S = 12.0
TURNS = ("qwen2", "llama3", "qwen2", "llama3")
CARDS = """gpu 12282 700
gpu 24564 20000
set 0 utilisation 37
set 0 temperature 54
set 0 power 112500
set 0 energy 5000000
set 0 sm 2520
set 0 mem 10501
set 0 reasons 36
set 0 fan 41
set 0 sent 1500
set 0 received 250000
process 0 100 4096 /opt/engine/bin/text-generation-server --model x
set 1 utilisation 90
set 1 temperature 71
set 1 sm 1400
"""
JOULES_A_TURN = 2000
_ALIASES = {
    "ab": {"split": {"arm-a": 70, "arm-b": 30}, "sticky": "none"},
    "careful": {"to": "gone", "fallback": ["arm-a"]},
}


@dataclass(slots=True)
class LoadGenerator:
    """Sends what a load test counts, by the names in docs/MONITORING.md."""

    port: int
    socket: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    def answered(self, name: str, ms: float, first_token_ms: float) -> None:
        self._send(
            f"gw.locust_requests,name={name}:1|c",
            f"gw.locust_response_time,name={name}:{ms:.3f}|ms",
            f"gw.locust_first_token,name={name}:{first_token_ms:.3f}|ms",
        )

    def failed(self, name: str) -> None:
        self._send(f"gw.locust_requests,name={name}:1|c", f"gw.locust_failures,name={name}:1|c")

    def users(self, number: int) -> None:
        self._send(f"gw.locust_users:{number}|g")

    def close(self) -> None:
        self.socket.close()

    def _send(self, *lines: str) -> None:
        self.socket.sendto("\n".join(lines).encode(), ("127.0.0.1", self.port))


@dataclass(slots=True)
class Scene:
    """Everything that has to run for it, besides Telegraf and InfluxDB."""

    folder: Path
    statsd_port: int
    stub_library: Path

    @contextlib.contextmanager
    def running(self) -> Iterator[Running]:
        with contextlib.ExitStack() as ends:
            engines = {}
            for name in ("narrow", "arm-a", "arm-b", "busy"):
                options = {"max_concurrent": 1} if name == "busy" else {}
                pace = {"tokens_per_s": 80, "first_token_s": 0.02}
                engines[name] = start_echo(self.folder, model_id=name, **pace, **options)
                ends.callback(engines[name].stop)
            gateway = start_gateway(
                self.folder,
                self._registry(engines),
                statsd_host="127.0.0.1",
                statsd_port=self.statsd_port,
            )
            ends.callback(gateway.stop)
            ends.enter_context(self._sidecar(gateway))
            yield gateway

    def _registry(self, engines: dict[str, Running]) -> dict[str, Any]:
        limits = {"max_concurrent": 1, "max_queue": 1}
        beside = [
            model(engines["narrow"].url, id="narrow", limits=limits),
            model(engines["arm-a"].url, id="arm-a"),
            model(engines["arm-b"].url, id="arm-b"),
            model(f"http://127.0.0.1:{free_port()}", id="gone"),
            # Its first engine takes one request at a time; what that refuses goes to the second.
            model(engines["busy"].url, id="pair", replicas=[engines["arm-b"].url]),
        ]
        return {
            "default_model": "qwen2",
            "devices": [
                {"id": "card", "memory": 200 * MIB, "reader": "process"},
                {"id": "other", "memory": 200 * MIB, "reader": "none"},
            ],
            "switching": {"max_wait_s": 2, "min_residency_s": 1, "backoff_initial_s": 0.2},
            "models": [_resident("qwen2", preload=True), _resident("llama3"), _fragile(), *beside],
            "aliases": _ALIASES,
        }

    def show_cards(self, text: str) -> None:
        fresh = self.folder / "cards.new"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self.folder / "cards")

    @contextlib.contextmanager
    def _sidecar(self, gateway: Running) -> Iterator[None]:
        self.show_cards(CARDS)
        env = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY / "monitoring" / "gpu"),
            "LD_LIBRARY_PATH": str(self.stub_library.parent),
            "NVML_STUB_STATE": str(self.folder / "cards"),
            "SIDECAR_HOST": "rack1",
            "SIDECAR_INTERVAL_S": "0.5",
            "SIDECAR_WINDOW_S": "5",
            "SIDECAR_STATSD_PORT": str(self.statsd_port),
            "GATEWAY_METRICS_URL": f"{gateway.url}/metrics",
            "PRICE_PER_KWH": "0.3",
        }
        with (self.folder / "sidecar.log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-m", "gpu_sidecar"], stdout=log, stderr=log, env=env)
        try:
            yield
        finally:
            process.terminate()
            process.wait(STOP_S)


def _resident(name: str, **record: Any) -> dict[str, Any]:
    """An engine that takes most of the device, so that two do not fit."""
    options = {"model_id": name, "memory_bytes": 90 * MIB, "load_s": 0.8, "tokens_per_s": 100}
    return {
        "id": name,
        "family": "chatml",
        "command": echo_command("{port}", python="{python}", first_token_s=0.03, **options),
        "device": "card",
        "memory": 130 * MIB,
        "timeouts": {"stop_grace_s": 5},
        **record,
    }


def _fragile() -> dict[str, Any]:
    """Dies in the middle of every answer of more than five tokens."""
    failing = {"fail": "mid-stream", "fail_after_tokens": 5, "tokens_per_s": 100}
    return {
        **_resident("fragile", device="other"),
        "command": echo_command("{port}", python="{python}", model_id="fragile", **failing),
    }


async def play(scene: Scene, gateway: Running) -> Tally:
    """The whole scene; what clients counted."""
    tally = Tally()
    clients, load = Clients(gateway.url, tally), LoadGenerator(scene.statsd_port)
    clients.on_answer = load.answered
    clients.on_failure = load.failed
    try:
        for number, name in enumerate(TURNS):
            load.users(number + 2)
            scene.show_cards(_cards_in_turn(number))
            await _turn(clients, name, TURNS[(number + 1) % len(TURNS)])
    finally:
        await clients.close()
        load.close()
    return tally


def _cards_in_turn(number: int) -> str:
    """Energy goes on; in the second turn the second card is lost, and it comes back."""
    text = CARDS.replace("energy 5000000", f"energy {5_000_000 + number * JOULES_A_TURN * 1000}")
    return text + "lost 1\n" if number == 1 else text


async def _turn(clients: Clients, name: str, other: str) -> None:
    """One model is asked for; beside it goes wrong what can, and somebody asks for the other one."""
    await asyncio.gather(
        paced(5, LASTING_S, lambda number: clients.ask(name, 8 + number % 5 * 6, words=4 + number % 7)),
        paced(1, LASTING_S, lambda number: clients.stream(name, 30)),
        paced(1.5, LASTING_S, lambda number: clients.ask("ab", 10 + number % 10)),
        paced(0.5, LASTING_S, lambda _: clients.stream("ab", 12)),
        _trouble(clients, name, other),
    )


async def _trouble(clients: Clients, name: str, other: str) -> None:
    await clients.nonsense()
    await clients.ask("no-such-model")
    await clients.stream(name, 60, leave_after=3)
    await clients.stream("arm-a", 60, leave_after=5)
    await asyncio.gather(*(clients.ask("narrow", 30) for _ in range(4)))
    await asyncio.gather(*(clients.ask("pair", 20) for _ in range(6)))
    await clients.ask("careful", 10)
    await clients.ask("fragile", 4)
    await clients.ask("fragile", 20)
    await clients.give_up(other, 0.5)
