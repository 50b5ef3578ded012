"""What goes wrong with containers, and what the client of the gateway sees of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import httpx
import pytest
from engine_room import PATH, Project
from harness import until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

ASKED = {
    "model_id": "qwen2",
    "inputs": "one two three",
    "scenario": "raw",
    "parameters": {"max_new_tokens": 8},
}


@pytest.fixture(scope="module")
def faulty(project: Callable[..., Project]) -> Project:
    return project("faulty", "docker-compose.yml")


@pytest.fixture
def client(faulty: Project) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {faulty.key()}"}
    with httpx.Client(base_url=faulty.url, headers=headers, timeout=90) as client:
        until(
            lambda: client.post("/v1/generate", json=ASKED).status_code == 200, "an answer to begin with", 90
        )
        yield client


def refused(client: httpx.Client) -> tuple[int, str]:
    answer = client.post("/v1/generate", json=ASKED)
    return answer.status_code, answer.json().get("error", {}).get("type", "")


def answers_again(client: httpx.Client) -> None:
    until(lambda: client.post("/v1/generate", json=ASKED).status_code == 200, "answers as before", 90)


def test_a_frozen_engine_times_out_and_answers_once_it_is_thawed(
    faulty: Project, client: httpx.Client
) -> None:
    container = faulty.container("tgi-qwen2")
    faulty.daemon.docker("pause", container)
    try:
        status, _ = refused(client)
        assert status in (503, 504)
    finally:
        faulty.daemon.docker("unpause", container)
    answers_again(client)


def test_a_killed_container_is_unavailable_until_it_is_started(faulty: Project, client: httpx.Client) -> None:
    container = faulty.container("tgi-qwen2")
    faulty.daemon.docker("kill", container)
    until(lambda: refused(client)[0] == 503, "a refusal that says so", 30)
    faulty.daemon.docker("start", container)
    answers_again(client)


def test_a_crashed_supervisor_comes_back_by_the_restart_policy(faulty: Project, client: httpx.Client) -> None:
    pid = faulty.inspect("tgi-qwen2", "{{.State.Pid}}")
    restarts = int(faulty.inspect("tgi-qwen2", "{{.RestartCount}}"))
    subprocess.run(["kill", "-9", pid], check=True)
    until(lambda: int(faulty.inspect("tgi-qwen2", "{{.RestartCount}}")) > restarts, "a restart", 30)
    answers_again(client)


def test_a_cut_network_is_unavailable_and_heals(faulty: Project, client: httpx.Client) -> None:
    container = faulty.container("tgi-qwen2")
    faulty.daemon.docker("network", "disconnect", "faulty_qwen2", container)
    try:
        until(lambda: refused(client)[0] in (502, 503), "a refusal that says so", 60)
    finally:
        faulty.daemon.docker("network", "connect", "--alias", "tgi-qwen2", "faulty_qwen2", container)
    answers_again(client)


def test_dropped_packets_end_in_a_timeout_and_heal(faulty: Project, client: httpx.Client) -> None:
    pid = faulty.inspect("tgi-qwen2", "{{.State.Pid}}")
    rule = ["INPUT", "-p", "tcp", "--dport", "80", "-j", "DROP"]
    inside = ["nsenter", f"--target={pid}", "--net", "iptables"]
    environment = {"PATH": PATH}
    subprocess.run([*inside, "-A", *rule], check=True, env=environment)
    try:
        until(lambda: refused(client)[0] in (503, 504), "a refusal that says so", 60)
    finally:
        subprocess.run([*inside, "-D", *rule], check=True, env=environment)
    answers_again(client)


def test_an_engine_that_runs_out_of_memory_is_named_and_the_other_model_answers(
    faulty: Project, client: httpx.Client
) -> None:
    """The kernel ends the engine inside its container; the supervisor stays, and says what it saw."""
    options = faulty.folder / "models/llama3/stand-in-options"
    options.write_text("--load-s=0 --memory-bytes=300000000")
    faulty.daemon.docker("update", "--memory=200m", "--memory-swap=200m", faulty.container("tgi-llama3"))
    try:
        answer = client.post("/v1/generate", json={**ASKED, "model_id": "llama3"})
        assert answer.status_code == 503, answer.text
        assert "signal 9" in answer.json()["error"]["message"]
        answers_again(client)
    finally:
        options.unlink()
        faulty.daemon.docker("update", "--memory=2g", "--memory-swap=2g", faulty.container("tgi-llama3"))
    until(
        lambda: client.post("/v1/generate", json={**ASKED, "model_id": "llama3"}).status_code == 200,
        "the model that has its memory now",
        90,
    )
