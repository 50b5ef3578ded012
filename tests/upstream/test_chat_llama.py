"""Tools through a real llama.cpp server, with a chat template that knows them and with one that does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from harness import Running, free_port, start_gateway, until
from openai import OpenAI

from gateway.engine.weights import Q4_1_FILE, cache_folder

MODEL = cache_folder() / Q4_1_FILE
SERVER = Path(__file__).parent.parent / "llama_server.py"
TEMPLATE = Path(__file__).parent / "tools.jinja"
CONTEXT = 640
pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(not MODEL.is_file(), reason="the small model is not there: make fetch-model"),
]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
CLOCK: Any = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}


def asked_and_called(city: str) -> list[Any]:
    """So small a model calls a tool once it has seen how."""
    function = {"name": "weather", "arguments": json.dumps({"city": city})}
    call = {"id": f"call_{city}", "type": "function", "function": function}
    return [
        {"role": "user", "content": f"What is the weather in {city}?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]


QUESTION: Any = {"role": "user", "content": "What is the weather in Paris?"}
SHOWN: list[Any] = [
    *asked_and_called("Rome"),
    *asked_and_called("Oslo"),
    *asked_and_called("Madrid"),
    QUESTION,
]
ASKED: dict[str, Any] = {
    "model": "knows",
    "messages": SHOWN,
    "tools": [WEATHER, CLOCK],
    "temperature": 0,
    "max_tokens": 60,
}


@contextmanager
def llama(*template: str) -> Iterator[str]:
    """The address of a server with one slot."""
    port = free_port()
    env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(SERVER), str(MODEL), str(port), "1", str(CONTEXT), *template]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    assert process.stdout is not None
    assert process.stdout.readline(), f"it ended with {process.wait()}"
    yield f"http://127.0.0.1:{port}"
    process.communicate(timeout=20)


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[str, str]]:
    """One whose model's template knows tools, and one with the template of the model itself."""
    with llama(str(TEMPLATE)) as knows, llama() as plain:
        yield knows, plain


@pytest.fixture(scope="module")
def stage(engines: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    record = {"family": "smollm2", "engine": "openai"}
    models = [
        {"id": name, **record, "url": url} for name, url in zip(("knows", "plain"), engines, strict=True)
    ]
    running = start_gateway(tmp_path_factory.mktemp("llama"), {"models": models})
    until(
        lambda: all(row["state"] == "ready" for row in running.get("/v1/models").json()["data"]),
        "both models to be ready",
    )
    yield running
    running.stop()


@pytest.fixture
def client(stage: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{stage.url}/v1", api_key="unused", max_retries=0, timeout=60) as client:
        yield client


@pytest.mark.parametrize(
    "choice", ["auto", "required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_model_that_was_shown_how_calls_the_tool(client: OpenAI, choice: Any) -> None:
    answer = client.chat.completions.create(**ASKED, tool_choice=choice)

    [call] = answer.choices[0].message.tool_calls or []
    assert answer.choices[0].finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 100


def test_the_stream_has_the_same_call_and_its_result_becomes_words(client: OpenAI) -> None:
    parts = list(client.chat.completions.create(**ASKED, stream=True))
    calls = [call for part in parts for call in part.choices[0].delta.tool_calls or []]
    arguments = "".join(call.function.arguments or "" for call in calls if call.function)
    assert json.loads(arguments) == {"city": "Paris"}
    [called] = [call.id for call in calls if call.id]

    function = {"name": "weather", "arguments": arguments}
    turns = [
        QUESTION,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": called, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": called, "content": "It is rainy in Paris."},
    ]
    answer = client.chat.completions.create(**{**ASKED, "messages": turns}).choices[0]
    assert "rainy" in str(answer.message.content)


def test_a_template_that_knows_no_tools_is_found_out(client: OpenAI, stage: Running) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="knows no tools") as raised:
        client.chat.completions.create(**{**ASKED, "model": "plain"})
    assert raised.value.param == "tools"

    client.chat.completions.create(**{**ASKED, "max_tokens": 1})
    able = {row["id"]: row["capabilities"] for row in stage.get("/v1/models").json()["data"]}
    assert (able["knows"]["tools"], able["plain"]["tools"]) == (True, False)
    assert able["plain"]["tokenise"]
    # From now on it is known before anything waits.
    with pytest.raises(openai.UnprocessableEntityError, match="does not call tools"):
        client.chat.completions.create(**{**ASKED, "model": "plain"})


def test_logprobs_which_it_has_not_beside_tools_are_refused_and_come_without_tools(client: OpenAI) -> None:
    asked = {**ASKED, "max_tokens": 4, "logprobs": True, "top_logprobs": 2}
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        client.chat.completions.create(**asked)
    assert raised.value.param == "logprobs"

    [choice] = client.chat.completions.create(**asked, tool_choice="none").choices
    assert choice.logprobs is not None
    rows = choice.logprobs.content or []
    assert "".join(row.token for row in rows) == choice.message.content
    assert all(row.logprob <= 0 and len(row.top_logprobs) == 2 for row in rows)


def test_a_stop_string_ends_what_is_said(client: OpenAI) -> None:
    free = {**ASKED, "messages": [QUESTION]}
    whole = str(client.chat.completions.create(**free).choices[0].message.content)
    stop = whole.split()[2]
    [choice] = client.chat.completions.create(**free, stop=stop).choices

    assert choice.finish_reason == "stop"
    assert choice.message.content == whole[: whole.index(stop)]


def test_tools_count_as_tokens(stage: Running) -> None:
    tool: Any = {"name": "weather", "input_schema": SCHEMA}
    with anthropic.Anthropic(base_url=stage.url, api_key="unused", max_retries=0) as client:
        without = client.messages.count_tokens(model="knows", messages=[QUESTION])
        counted = client.messages.count_tokens(model="knows", messages=[QUESTION], tools=[tool])

    assert counted.input_tokens > without.input_tokens + 20


def test_a_client_that_leaves_frees_the_slot(client: OpenAI, engines: tuple[str, str]) -> None:
    def busy() -> bool:
        return any(slot["is_processing"] for slot in httpx.get(f"{engines[0]}/slots", timeout=10).json())

    asked = {**ASKED, "messages": [QUESTION], "max_tokens": 400, "stream": True, "tool_choice": "required"}
    with client.chat.completions.create(**asked) as stream:
        next(part for part in stream if part.choices[0].delta.content)
        assert busy()
    until(lambda: not busy(), "the slot to be free")
