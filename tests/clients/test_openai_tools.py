"""Tools with OpenAI's and Hugging Face's own clients, unmodified, against the embedded engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
from harness import Running, model, owned, start_echo, start_gateway, until
from huggingface_hub import AsyncInferenceClient, InferenceClient
from openai import AsyncOpenAI, OpenAI

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"enum": ["c", "f"]}},
    "required": ["city", "unit"],
}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "of a city", "parameters": SCHEMA},
}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
QUESTION: Any = {"role": "user", "content": "How warm is it in Rome?"}
MADE = {"city": "echo", "unit": "c"}
ASKED: dict[str, Any] = {"model": "echo", "messages": [QUESTION], "tools": [WEATHER, CLOCK], "max_tokens": 60}
CLIENT: dict[str, Any] = {"api_key": "unused", "max_retries": 0, "timeout": 30}


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_echo(tmp_path_factory.mktemp("slow"), tokens_per_s=20)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def stage(slow: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Models: ``echo``, which comes in when it is asked; ``slow``; ``bare``, without tools; ``frail``."""
    models = [
        owned("echo"),
        model(slow.url, id="slow", limits={"max_concurrent": 1, "max_queue": 0}),
        model(slow.url, id="bare", capabilities={"tools": False, "seed": False, "logprobs": False}),
        owned("frail", fail="mid-stream", fail_after_tokens=4),
    ]
    running = start_gateway(tmp_path_factory.mktemp("tools"), {"models": models}, heartbeat_s=0.2)
    yield running
    running.stop()


@pytest.fixture
def sync(stage: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{stage.url}/v1", **CLIENT) as client:
        yield client


@pytest.fixture
async def asking(stage: Running) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{stage.url}/v1", **CLIENT) as client:
        yield client


def test_a_call_is_made_answered_and_followed_by_words(sync: OpenAI) -> None:
    first = sync.chat.completions.create(**ASKED).choices[0]
    [call] = first.message.tool_calls or []
    assert (first.finish_reason, first.message.content) == ("tool_calls", None)
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == (
        "function",
        "weather",
        MADE,
    )
    assert call.id.startswith("call_")

    turns = [
        QUESTION,
        first.message,
        {"role": "tool", "tool_call_id": call.id, "content": "warm: 31 degrees"},
    ]
    last = sync.chat.completions.create(**{**ASKED, "messages": turns}).choices[0]
    assert (last.finish_reason, last.message.tool_calls) == ("length", None)
    assert "warm: 31 degrees" in str(last.message.content)

    again = sync.chat.completions.create(**{**ASKED, "messages": turns, "tool_choice": "required"}).choices[0]
    assert [one.id for one in again.message.tool_calls or []] != [call.id]


def test_a_stream_has_id_and_name_once_and_the_same_arguments_in_pieces(sync: OpenAI) -> None:
    parts = list(sync.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))

    *said, end, usage = parts
    calls = [call for part in said for call in part.choices[0].delta.tool_calls or []]
    assert [call.index for call in calls] == [0] * len(calls)
    assert [call.function.name for call in calls if call.function and call.function.name] == ["weather"]
    assert len([call.id for call in calls if call.id]) == 1
    assert json.loads("".join(call.function.arguments or "" for call in calls if call.function)) == MADE
    assert len(calls) > 3
    assert (end.choices[0].finish_reason, usage.choices) == ("tool_calls", [])
    assert usage.usage is not None
    assert usage.usage.completion_tokens > 0
    assert [part.choices[0].delta.role for part in said if part.choices[0].delta.role] == ["assistant"]


async def test_the_stream_helper_of_the_async_client_collects_the_call(asking: AsyncOpenAI) -> None:
    async with asking.chat.completions.stream(**ASKED) as stream:
        kinds = [event.type async for event in stream]
        final = (await stream.get_final_completion()).choices[0]

    assert "tool_calls.function.arguments.delta" in kinds
    assert "tool_calls.function.arguments.done" in kinds
    [call] = final.message.tool_calls or []
    assert (final.finish_reason, json.loads(call.function.arguments)) == ("tool_calls", MADE)
    plain = (await asking.chat.completions.create(**ASKED)).choices[0].message.tool_calls or []
    assert plain[0].function.arguments == call.function.arguments


@pytest.mark.parametrize(
    ("choice", "name"),
    [("required", "weather"), ({"type": "function", "function": {"name": "clock"}}, "clock"), ("none", None)],
)
def test_the_choice_is_obeyed(sync: OpenAI, choice: Any, name: str | None) -> None:
    answer = sync.chat.completions.create(**ASKED, tool_choice=choice).choices[0].message

    names = [call.function.name for call in answer.tool_calls or []]  # type: ignore[union-attr]
    assert names == ([] if name is None else [name])
    assert (answer.content is None) == (name is not None)


def test_each_of_several_choices_has_a_call_of_its_own(sync: OpenAI) -> None:
    choices = sync.chat.completions.create(**ASKED, n=3, seed=1).choices
    parts = list(sync.chat.completions.create(**ASKED, n=2, stream=True))

    assert [choice.finish_reason for choice in choices] == ["tool_calls"] * 3
    assert len({call.id for choice in choices for call in choice.message.tool_calls or []}) == 3
    ids = {
        (part.choices[0].index, call.id) for part in parts for call in part.choices[0].delta.tool_calls or []
    }
    assert len({one for one in ids if one[1]}) == 2


def test_the_receipt_is_where_it_is_without_tools(stage: Running) -> None:
    answer = httpx.post(f"{stage.url}/v1/chat/completions", json=ASKED, timeout=20)

    body = answer.json()
    assert answer.headers["x-gateway-model"] == "echo"
    assert float(answer.headers["x-gateway-total-ms"]) == body["receipt"]["total_ms"] > 0
    assert body["usage"]["prompt_tokens"] > 10


def test_a_scenario_wraps_the_last_message_of_the_user(sync: OpenAI) -> None:
    asked = {**ASKED, "tool_choice": "required", "extra_body": {"scenario": "summary"}}
    plain = sync.chat.completions.create(**ASKED, tool_choice="required")
    wrapped = sync.chat.completions.create(**asked)

    assert wrapped.usage is not None
    assert plain.usage is not None
    assert wrapped.usage.prompt_tokens > plain.usage.prompt_tokens
    assert wrapped.choices[0].message.tool_calls


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"model": "bare"}, "tools"),
        ({"model": "bare", "tools": openai.NOT_GIVEN, "seed": 3}, "seed"),
        ({"model": "bare", "tools": openai.NOT_GIVEN, "logprobs": True}, "logprobs"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
            "response_format",
        ),
        ({"tool_choice": {"type": "function", "function": {"name": "nope"}}}, "tool_choice"),
        ({"messages": [QUESTION, {"role": "tool", "tool_call_id": "x", "content": "y"}]}, "messages.1"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_by_its_field(
    sync: OpenAI, more: dict[str, Any], said: str, stream: bool
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        sync.chat.completions.create(**{**ASKED, **more}, stream=stream)

    assert raised.value.param == said


def test_an_engine_that_breaks_off_in_the_middle_is_an_error(sync: OpenAI) -> None:
    with pytest.raises(openai.APIError):
        list(sync.chat.completions.create(**{**ASKED, "model": "frail"}, stream=True))


def test_a_client_that_leaves_stops_the_engine(sync: OpenAI, stage: Running, slow: Running) -> None:
    long = {"role": "user", "content": "word " * 300}
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    turns = [
        long,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "warm"},
    ]
    asked = {**ASKED, "model": "slow", "messages": turns, "tool_choice": "none", "max_tokens": 900}
    with sync.chat.completions.create(**asked, stream=True) as stream:
        next(part for part in stream if part.choices[0].delta.content)
        assert slow.metric("tgi_batch_current_size") == 1
    until(lambda: slow.metric("tgi_batch_current_size") == 0, "the engine to stop")
    until(lambda: stage.get("/v1/models/slow").json()["in_flight"] == 0, "the place to be free")


def test_special_tokens_that_were_typed_reach_the_engine_harmless(sync: OpenAI) -> None:
    typed = {"role": "user", "content": "a <|im_end|> b"}
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    turns = [
        typed,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "c <|im_start|> d"},
    ]
    answer = sync.chat.completions.create(**{**ASKED, "messages": turns, "tools": openai.NOT_GIVEN})

    said = str(answer.choices[0].message.content)
    assert "<\u200b|im_end|>" in said
    assert "<\u200b|im_start|>" in said


def test_models_say_what_they_can_do(stage: Running) -> None:
    rows = {row["id"]: row["capabilities"] for row in stage.get("/v1/models").json()["data"]}

    everything = dict.fromkeys(("grammar", "tools", "tokenise", "logprobs", "seed"), True)
    assert rows["echo"] == everything
    assert rows["bare"] == {**everything, "tools": False, "seed": False, "logprobs": False}


# ---------------------------------------------------------------- a model's own address


def test_a_models_own_address_serves_openais_client(stage: Running) -> None:
    with OpenAI(base_url=f"{stage.url}/models/echo/v1", **CLIENT) as client:
        assert [one.id for one in client.models.list()] == ["echo"]
        answer = client.chat.completions.create(**{**ASKED, "model": "whatever"})
        text = client.completions.create(model="whatever", prompt="hello brave", max_tokens=2)
        assert (answer.model, text.model) == ("echo", "echo")
        with pytest.raises(openai.UnprocessableEntityError) as raised:
            client.chat.completions.create(**{**ASKED, "temperature": 9})
    assert raised.value.param == "temperature"
    with (
        OpenAI(base_url=f"{stage.url}/models/nope/v1", **CLIENT) as client,
        pytest.raises(openai.NotFoundError),
    ):
        client.chat.completions.create(**ASKED)


def test_the_hubs_client_calls_tools_at_a_models_address(stage: Running) -> None:
    client = InferenceClient(model=f"{stage.url}/models/echo", timeout=20)
    asked: Any = {"messages": [QUESTION], "tools": [WEATHER], "max_tokens": 60}
    choice = client.chat_completion(**asked, tool_choice="required").choices[0]
    parts = list(client.chat_completion(**asked, stream=True))

    [call] = choice.message.tool_calls or []
    assert (choice.finish_reason, call.function.name) == ("tool_calls", "weather")
    assert json.loads(str(call.function.arguments)) == MADE
    pieces = [call for part in parts for call in part.choices[0].delta.tool_calls or []]
    assert json.loads("".join(piece.function.arguments for piece in pieces)) == MADE


async def test_the_hubs_async_client_does_the_same_with_a_dummy_model(stage: Running) -> None:
    asked: Any = {"messages": [QUESTION], "tools": [WEATHER], "max_tokens": 60}
    async with AsyncInferenceClient(base_url=stage.url, timeout=20) as client:
        choice = (await client.chat_completion(**asked)).choices[0]

    assert [call.function.name for call in choice.message.tool_calls or []] == ["weather"]
