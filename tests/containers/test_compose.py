"""The compose files as they are shipped: on a stand-in for a 12 GB card, and without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from engine_room import Daemon, Project
from harness import until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

ASKED = {"inputs": "one two three", "scenario": "raw", "parameters": {"max_new_tokens": 8}}


@pytest.fixture(scope="module")
def card(project: Callable[..., Project]) -> Project:
    return project("card", "docker-compose.yml")


@pytest.fixture
def client(card: Project) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {card.key()}"}
    with httpx.Client(base_url=card.url, headers=headers, timeout=90) as client:
        yield client


def state(client: httpx.Client, model: str) -> str:
    return str(client.get(f"/v1/models/{model}").json()["state"])


def test_each_model_answers_and_the_switch_happens_inside_the_containers(
    card: Project, client: httpx.Client
) -> None:
    until(lambda: state(client, "qwen2") == "ready", "the default model", 60)
    assert state(client, "llama3") == "stopped"
    for model, other in (("qwen2", "llama3"), ("llama3", "qwen2"), ("qwen2", "llama3")):
        answer = client.post("/v1/generate", json={**ASKED, "model_id": model})
        assert answer.status_code == 200, answer.text
        assert answer.json()["model_id"] == model
        assert state(client, other) == "stopped"
    engines = [
        card.compose("exec", "-T", f"tgi-{name}", "cat", "/proc/1/cmdline") for name in ("qwen2", "llama3")
    ]
    assert all("supervisor.py" in command for command in engines)
    assert "gateway.engine" not in card.python("tgi-llama3", RUNNING)
    assert "gateway.engine" in card.python("tgi-qwen2", RUNNING)


RUNNING = (
    "import pathlib\n"
    "for one in pathlib.Path('/proc').glob('[0-9]*/cmdline'):\n"
    "    print(one.read_bytes().replace(bytes(1), b' ').decode())"
)


def test_the_card_is_given_to_whom_it_is_reserved_for(card: Project) -> None:
    reserved = dict(line.split() for line in card.daemon.reserved().splitlines())
    for service in ("gateway", "tgi-qwen2", "tgi-llama3"):
        assert reserved[card.container(service)[:12]] == "0"
    assert "on card 0" in card.compose("logs", "tgi-qwen2")
    total = card.python("gateway", MEMORY)
    assert total == str(12_282 << 20)


MEMORY = """
import pynvml
pynvml.nvmlInit()
print(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).total)
"""


def test_nobody_comes_in_without_the_key_that_the_first_start_made(card: Project) -> None:
    assert httpx.get(f"{card.url}/v1/models").status_code == 401
    assert httpx.get(f"{card.url}/health").status_code == 200
    logs = card.compose("logs")
    assert card.key() not in logs
    assert "cat /var/lib/gateway/api-key" in logs


def test_a_second_start_keeps_the_key(card: Project) -> None:
    before = card.key()
    card.compose("up", "-d", "--wait")
    assert card.key() == before


REACHES = """
import socket
for name in ('tgi-qwen2', 'tgi-llama3'):
    for port in (80, 9000):
        try:
            socket.create_connection((name, port), 2).close()
            print(name, port)
        except OSError:
            pass
"""


def test_only_the_gateway_reaches_supervisors_and_engines(card: Project) -> None:
    assert "tgi-qwen2 9000" in card.python("gateway", REACHES)
    assert "tgi-llama3" not in card.python("tgi-qwen2", REACHES)
    assert "tgi-qwen2" not in card.python("tgi-llama3", REACHES)
    outside = card.daemon.docker(
        "run",
        "--rm",
        "--network",
        "card_front",
        "--entrypoint",
        "python3",
        "tgi-stand-in:lane",
        "-c",
        REACHES,
    )
    assert outside.strip() == ""


LEAVES = """
import socket
try:
    socket.create_connection(('{address}', 8000), 3)
    print('reached')
except OSError:
    print('not reached')
"""


def test_engines_have_no_way_out(card: Project) -> None:
    """The only network with a way out is `front`: what is there is already out of an engine's reach."""
    form = '{{(index .NetworkSettings.Networks "card_front").IPAddress}}'
    outside = LEAVES.format(address=card.inspect("gateway", form))
    assert card.python("gateway", outside) == "reached"
    assert card.python("tgi-qwen2", outside) == "not reached"
    assert card.python("tgi-llama3", outside) == "not reached"


def test_the_gateway_runs_without_rights_and_cannot_write_its_image(card: Project) -> None:
    assert card.python("gateway", "import os; print(os.getuid())") == "10001"
    assert card.inspect("gateway", "{{.HostConfig.ReadonlyRootfs}}") == "true"
    assert "ALL" in card.inspect("gateway", "{{.HostConfig.CapDrop}}")
    for service in ("gateway", "tgi-qwen2"):
        assert "docker.sock" not in card.inspect(service, "{{json .Mounts}}")


def test_on_a_card_with_room_for_both_the_same_file_keeps_both_in(
    daemon: Daemon, project: Callable[..., Project]
) -> None:
    cards = daemon.folder / "hook" / "cards"
    smaller = cards.read_text()
    cards.write_text("gpu 24564 700\n")
    try:
        large = project("large", "docker-compose.yml")
    finally:
        cards.write_text(smaller)
    headers = {"authorization": f"Bearer {large.key()}"}
    with httpx.Client(base_url=large.url, headers=headers, timeout=90) as client:
        for model in ("llama3", "qwen2"):
            assert client.post("/v1/generate", json={**ASKED, "model_id": model}).status_code == 200
        assert [state(client, model) for model in ("qwen2", "llama3")] == ["ready", "ready"]
    large.compose("down", "--volumes", "--timeout", "5")


def test_without_a_card_the_real_small_models_answer_and_switch(project: Callable[..., Project]) -> None:
    small = project("small", "docker-compose.yml", "docker-compose.cpu.yml")
    headers = {"authorization": f"Bearer {small.key()}"}
    with httpx.Client(base_url=small.url, headers=headers, timeout=120) as client:
        for model in ("smollm2", "smollm2-q8"):
            asked = {"model_id": model, "inputs": "What is the capital of France?", "scenario": "qa"}
            answer = client.post("/v1/generate", json=asked)
            assert answer.status_code == 200, answer.text
            assert "Paris" in answer.json()["generated_text"]


def test_down_leaves_nothing(card: Project) -> None:
    card.compose("down", "--volumes", "--timeout", "5")
    for what in (("ps", "-aq"), ("network", "ls", "-q"), ("volume", "ls", "-q")):
        label = f"label=com.docker.compose.project={card.name}"
        assert card.daemon.docker(*what, "--filter", label).strip() == ""
