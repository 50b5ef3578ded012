"""Tools with Anthropic's own client, unmodified, against the embedded engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from harness import Running, model, start_echo, start_gateway

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"enum": ["c", "f"]}},
    "required": ["city", "unit"],
}
WEATHER = {"name": "weather", "description": "of a city", "input_schema": SCHEMA}
CLOCK = {"type": "custom", "name": "clock", "input_schema": {"type": "object", "properties": {}}}
QUESTION = {"role": "user", "content": "How warm is it in Rome?"}
MADE = {"city": "echo", "unit": "c"}
ASKED: dict[str, Any] = {
    "model": "echo",
    "max_tokens": 60,
    "messages": [QUESTION],
    "tools": [WEATHER, CLOCK],
}
CLIENT: dict[str, Any] = {"api_key": "unused", "max_retries": 0, "timeout": 30}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("anthropic-tools")
    engine = start_echo(folder)
    bare = model(engine.url, id="bare", capabilities={"tools": False, "tokenise": False})
    running = start_gateway(folder, {"models": [model(engine.url), bare]})
    yield running
    running.stop()
    engine.stop()


@pytest.fixture
def sync(stage: Running) -> Iterator[Anthropic]:
    with Anthropic(base_url=stage.url, **CLIENT) as client:
        yield client


@pytest.fixture
async def asking(stage: Running) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=stage.url, **CLIENT) as client:
        yield client


def test_a_tool_is_used_answered_and_followed_by_words(sync: Anthropic) -> None:
    first = sync.messages.create(**ASKED)
    [use] = first.content
    assert (first.stop_reason, use.type) == ("tool_use", "tool_use")
    assert use.type == "tool_use"
    assert (use.name, use.input) == ("weather", MADE)

    result = {
        "type": "tool_result",
        "tool_use_id": use.id,
        "content": [{"type": "text", "text": "31 degrees"}],
    }
    turns: Any = [
        QUESTION,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result, {"type": "text", "text": "Is that warm?"}]},
    ]
    last = sync.messages.create(**{**ASKED, "messages": turns, "tool_choice": {"type": "none"}})

    [block] = last.content
    assert (block.type, last.stop_reason) == ("text", "max_tokens")
    assert block.type == "text"
    assert "31 degrees" in block.text
    assert "Is that warm?" in block.text


def test_a_result_that_is_an_error_says_so_to_the_model(sync: Anthropic) -> None:
    use = {"type": "tool_use", "id": "c1", "name": "weather", "input": MADE}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": "no such city", "is_error": True}
    turns: Any = [
        QUESTION,
        {"role": "assistant", "content": [{"type": "text", "text": "Let me look."}, use]},
        {"role": "user", "content": [result]},
    ]
    [block] = sync.messages.create(**{**ASKED, "messages": turns}).content

    assert block.type == "text"
    assert "Error: no such city" in block.text
    assert "Let me look." in block.text


def test_a_stream_opens_a_block_for_the_tool_and_sends_its_input_in_pieces(sync: Anthropic) -> None:
    events = list(sync.messages.create(**ASKED, stream=True))

    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert kinds.count("content_block_delta") > 3
    started = next(event for event in events if event.type == "content_block_start")
    assert (started.index, started.content_block.type) == (0, "tool_use")


async def test_the_stream_helper_of_the_async_client_collects_the_same_message(
    asking: AsyncAnthropic,
) -> None:
    plain = await asking.messages.create(**ASKED)
    async with asking.messages.stream(**ASKED) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_message()

    assert "input_json" in kinds
    [use], [same] = plain.content, final.content
    assert use.type == same.type == "tool_use"
    assert (use.input, final.stop_reason) == (same.input, "tool_use")
    assert use.input == MADE
    assert plain.usage.output_tokens == final.usage.output_tokens > 0


@pytest.mark.parametrize(
    ("choice", "name"),
    [({"type": "any"}, "weather"), ({"type": "tool", "name": "clock"}, "clock"), ({"type": "none"}, None)],
)
def test_the_choice_is_obeyed(sync: Anthropic, choice: Any, name: str | None) -> None:
    answer = sync.messages.create(**ASKED, tool_choice=choice)

    assert [block.name for block in answer.content if block.type == "tool_use"] == (
        [] if name is None else [name]
    )


def test_tools_count_as_tokens(sync: Anthropic) -> None:
    asked: dict[str, Any] = {"model": "echo", "messages": [QUESTION]}
    without = sync.messages.count_tokens(**asked)
    counted = sync.messages.count_tokens(**asked, tools=ASKED["tools"])

    assert counted.input_tokens > without.input_tokens > 0
    assert counted.input_tokens == sync.messages.create(**ASKED).usage.input_tokens


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "bare"}, "tools cannot be used with bare"),
        ({"tool_choice": {"type": "tool", "name": "nope"}}, "tool_choice names 'nope'"),
        ({"extra_body": {"top_k": 4}}, "parameters.top_k cannot be used together with tools"),
        ({"messages": [QUESTION, {"role": "assistant", "content": "It is"}]}, "cannot be continued"),
        ({"tools": [WEATHER, WEATHER]}, "Two tools are called 'weather'"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused(
    sync: Anthropic, change: dict[str, Any], said: str, stream: bool
) -> None:
    with pytest.raises(anthropic.BadRequestError) as raised:
        sync.messages.create(**{**ASKED, **change}, stream=stream)

    assert said in raised.value.message


def test_a_model_that_cannot_split_a_text_is_not_asked_to_count(sync: Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="does not say how it splits a text"):
        sync.messages.count_tokens(model="bare", messages=[{"role": "user", "content": "x"}])
