"""Which requests really take the fast path: nobody loses it without noticing."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import Running, free_port, launch, model, start_echo, until
from server_wire.cases import BODY, CHAT, MESSAGES, STREAM, TEXT
from server_wire.raw import connected, posted, read

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
NATIVE_TOOL = {"name": "f", "input_schema": {"type": "object"}}
CHAT_PATH, TEXT_PATH, MESSAGES_PATH = "/v1/chat/completions", "/v1/completions", "/v1/messages"
PARTS = [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": " two"}]}]

FAST: dict[str, tuple[str, dict[str, Any]]] = {
    "tgi": ("/generate", BODY),
    "tgi-stream": ("/generate_stream", BODY),
    "native": ("/v1/generate", BODY),
    "native-stream": ("/v1/generate", STREAM),
    "chat": (CHAT_PATH, CHAT),
    "chat-stream": (CHAT_PATH, {**CHAT, "stream": True}),
    "chat-usage": (CHAT_PATH, {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
    "chat-stop-stream": (CHAT_PATH, {**CHAT, "stream": True, "stop": ["x"]}),
    "chat-default-model": (CHAT_PATH, {**CHAT, "model": "tgi"}),
    "chat-alias": (CHAT_PATH, {**CHAT, "model": "mirror"}),
    "chat-scenario": (CHAT_PATH, {**CHAT, "scenario": "qa"}),
    "chat-parts": (CHAT_PATH, {**CHAT, "messages": PARTS}),
    "chat-user": (CHAT_PATH, {**CHAT, "user": "somebody", "metadata": {"session_id": "one"}}),
    "chat-no-tools": (CHAT_PATH, {**CHAT, "tools": [], "tool_choice": "none"}),
    "text": (TEXT_PATH, TEXT),
    "text-stream": (TEXT_PATH, {**TEXT, "stream": True}),
    "messages": (MESSAGES_PATH, MESSAGES),
    "messages-stream": (MESSAGES_PATH, {**MESSAGES, "stream": True}),
    "messages-stop-stream": (MESSAGES_PATH, {**MESSAGES, "stream": True, "stop_sequences": ["x"]}),
}
ORDINARY: dict[str, tuple[str, dict[str, Any]]] = {
    "chat-two": (CHAT_PATH, {**CHAT, "n": 2}),
    "chat-logprobs": (CHAT_PATH, {**CHAT, "logprobs": True}),
    "chat-tools": (CHAT_PATH, {**CHAT, "tools": [TOOL]}),
    "chat-stop": (CHAT_PATH, {**CHAT, "stop": ["x"]}),
    "chat-split": (CHAT_PATH, {**CHAT, "model": "either"}),
    "chat-fallback": (CHAT_PATH, {**CHAT, "model": "careful"}),
    "chat-by-path": (f"/models/echo{CHAT_PATH}", CHAT),
    "text-two": (TEXT_PATH, {**TEXT, "prompt": ["one", "two"]}),
    "text-logprobs": (TEXT_PATH, {**TEXT, "logprobs": 0}),
    "messages-tools": (MESSAGES_PATH, {**MESSAGES, "tools": [NATIVE_TOOL]}),
    "messages-stop": (MESSAGES_PATH, {**MESSAGES, "stop_sequences": ["x"]}),
    "messages-split": (MESSAGES_PATH, {**MESSAGES, "model": "either"}),
}


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("telling")
    engine, port = start_echo(folder), free_port()
    aliases = {
        "mirror": "echo",
        "either": {"split": {"echo": 1, "other": 1}},
        "careful": {"to": "echo", "fallback": ["other"]},
    }
    registry = {"models": [model(engine.url), {**model(engine.url), "id": "other"}], "aliases": aliases}
    config = folder / "models.yaml"
    config.write_text(yaml.safe_dump(registry), encoding="utf-8")
    env = {"GATEWAY_CONFIG": str(config), "GATEWAY_PORT": str(port), "GATEWAY_RUN_DIR": str(folder / "run")}
    command = [sys.executable, str(Path(__file__).with_name("telling.py"))]
    running = launch(command, f"http://127.0.0.1:{port}", folder / "telling.log", env)
    for name in ("echo", "other"):
        until(lambda it=name: running.get(f"/v1/models/{it}").json()["state"] == "ready", name)  # type: ignore[misc]
    yield running
    running.stop()
    engine.stop()


def test_common_requests_take_it_and_others_do_not(telling: Running) -> None:
    for name, (path, body) in {**FAST, **ORDINARY}.items():
        with closing(connected(telling.url)) as client:
            client.sendall(posted(path, body, f"x-request-id: {name}"))
            [answer] = read(client, 1)
        assert answer.status == 200, (name, answer.body)
    assert set(re.findall(r"^fast: (\S+)$", telling.output, re.MULTILINE)) == FAST.keys()
