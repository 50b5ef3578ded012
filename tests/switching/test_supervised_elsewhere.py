"""Engines whose supervisors the gateway did not start, as in containers: it comes, goes and comes again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import REPOSITORY, Running, echo_command, free_port, until

Start = Callable[..., Running]
TOKEN = "a-token-for-supervisors"


class Supervised:
    """A supervisor of its own process around an echo engine, and its record in the registry."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.port, self.engine_port = free_port(), free_port()
        self.command = [
            *(sys.executable, "gateway/supervisor.py", "--listen", f"127.0.0.1:{self.port}", "--"),
            *echo_command(self.engine_port, model_id="m", **options),
        ]
        self.log = folder / f"supervisor-{self.port}.log"
        self.process = self.run()

    def run(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=REPOSITORY, env={"SUPERVISOR_TOKEN": TOKEN}, stdout=log, stderr=log
            )
        until(self.listens, "the supervisor to listen")
        return self.process

    def listens(self) -> bool:
        try:
            return self.ask("GET", "/status").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, method: str, path: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {TOKEN}"}
        return httpx.request(method, f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=10)

    @property
    def starts(self) -> int:
        return int(self.ask("GET", "/status").json()["starts"])

    @property
    def registry(self) -> dict[str, Any]:
        record = {
            "id": "m",
            "family": "chatml",
            "url": f"http://127.0.0.1:{self.engine_port}",
            "supervisor": f"http://127.0.0.1:{self.port}",
            "timeouts": {"stop_grace_s": 5},
        }
        return {"models": [record]}

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    made: list[Supervised] = []

    def make(**options: Any) -> Supervised:
        made.append(Supervised(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n", encoding="utf-8")
    return path


def generate(running: Running) -> httpx.Response:
    return httpx.post(running.url + "/v1/generate", json={"inputs": "hello"}, timeout=60)


def state(running: Running) -> str:
    return str(running.get("/v1/models/m").json()["state"])


def test_engine_outlives_the_gateway_and_is_taken_over_as_it_is(
    supervised: Callable[..., Supervised], gateway: Start, token_file: Path
) -> None:
    one = supervised(load_s=0.5)
    first = gateway(one.registry, supervisor_token_file=token_file)
    assert generate(first).status_code == 200
    first.stop()

    second = gateway(one.registry, supervisor_token_file=token_file)

    assert state(second) == "ready"
    assert generate(second).json()["receipt"]["load_ms"] == 0
    assert one.starts == 1


def test_load_under_way_is_joined_by_a_gateway_that_comes_later(
    supervised: Callable[..., Supervised], gateway: Start, token_file: Path
) -> None:
    one = supervised(load_s=3)
    one.ask("POST", "/start")

    running = gateway(one.registry, supervisor_token_file=token_file)

    assert state(running) in ("starting", "ready")
    assert generate(running).status_code == 200
    assert one.starts == 1


def test_supervisor_that_comes_later_makes_the_gateway_ready(
    supervised: Callable[..., Supervised], gateway: Start, token_file: Path
) -> None:
    one = supervised()
    one.end()
    running = gateway(one.registry, supervisor_token_file=token_file)
    assert running.get("/ready").status_code == 503

    one.run()

    until(lambda: running.get("/ready").status_code == 200, "the gateway to see the supervisor")
    assert generate(running).status_code == 200


def test_wrong_token_is_said_in_words_and_never_shown(
    supervised: Callable[..., Supervised], gateway: Start, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not-the-token", encoding="utf-8")
    running = gateway(supervised().registry, supervisor_token_file=wrong)

    refused = generate(running)

    assert refused.status_code == 503
    assert "does not accept the token" in refused.json()["error"]["message"]
    assert "not-the-token" not in running.output + refused.text


def test_lines_of_the_engine_can_be_read_through_the_gateway(
    supervised: Callable[..., Supervised], gateway: Start, token_file: Path
) -> None:
    running = gateway(supervised().registry, supervisor_token_file=token_file)
    generate(running)

    assert "Connected" in running.get("/v1/models/m/logs?tail=50").text
    assert running.get("/v1/models/m/logs?tail=0").status_code == 422
