"""A connection that has ended is gone at once: the collector comes late, and until then memory would grow."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from harness import Running, free_port, launch, model, until
from server_wire.raw import connected, got, posted, read, taken, told

FEW = {"inputs": "two words", "parameters": {"max_new_tokens": 2}}
MANY = {"inputs": "word " * 400, "parameters": {"max_new_tokens": 400}}
ENDED = {
    "nothing sent": (b"", 0),
    "half a head": (posted("/generate", FEW)[:60], 0),
    "half a body": (posted("/generate", FEW)[:-5], 0),
    "plain": (posted("/generate", FEW), 1),
    "two": (posted("/generate", FEW) * 2, 2),
    "stream": (posted("/generate_stream", FEW), 1),
    "chat": (posted("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}), 1),
    "ordinary": (got("/ping"), 1),
    "ordinary, then fast": (got("/ping") + posted("/generate", FEW), 2),
    "refused": (posted("/generate", {"inputs": ""}), 1),
    "not http": (b"\x16\x03\x01\x02\x00\r\n\r\n", 1),
}
LEFT = {
    "stream": posted("/generate_stream", MANY),
    "plain": posted("/generate", MANY),
    "native": posted("/v1/generate", {**MANY, "stream": True}),
}


@pytest.fixture(scope="module")
def uncollected(engine: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, port = tmp_path_factory.mktemp("uncollected"), free_port()
    config = folder / "models.yaml"
    config.write_text(yaml.safe_dump({"models": [model(engine.url)]}), encoding="utf-8")
    env = {"GATEWAY_CONFIG": str(config), "GATEWAY_PORT": str(port), "GATEWAY_RUN_DIR": str(folder / "run")}
    command = [sys.executable, str(Path(__file__).with_name("uncollected.py"))]
    running = launch(command, f"http://127.0.0.1:{port}", folder / "gateway.log", env)
    yield running
    running.stop()


def kept(running: Running) -> int:
    """How many connections there are, its own question's not among them."""
    begin = len(running.output)
    running.process.send_signal(signal.SIGUSR2)
    until(lambda: "connections kept" in running.output[begin:], "the number of connections")
    return int(re.findall(r"connections kept: (\d+)", running.output[begin:])[-1])


def test_one_that_is_there_is_counted(uncollected: Running) -> None:
    with closing(connected(uncollected.url)) as client:
        client.sendall(got("/ping"))
        told(client, 1)
        assert kept(uncollected) == 1


@pytest.mark.parametrize("name", ENDED)
def test_nothing_stays_of_a_connection(uncollected: Running, name: str) -> None:
    sent, answers = ENDED[name]
    with closing(connected(uncollected.url)) as client:
        client.sendall(sent)
        if answers:
            read(client, answers)
    until(lambda: kept(uncollected) == 0, "the end of the connection", 5.0)


@pytest.mark.parametrize("name", LEFT)
def test_nothing_stays_of_one_that_left(uncollected: Running, name: str) -> None:
    with closing(connected(uncollected.url)) as client:
        client.sendall(LEFT[name])
        taken([client])
        if name != "plain":
            assert client.recv(1)
    until(lambda: kept(uncollected) == 0, "the end of the connection", 5.0)
