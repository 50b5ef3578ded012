"""What OpenAI's fields ask of an engine: the parameters and the conversation that they become."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.api.openai_bodies import ChatBody, CompletionBody, chat_requests, completion_requests
from gateway.config import ModelSpec, Registry
from gateway.generation import Generations
from gateway.parameters import Parameters
from gateway.scenarios import ScenarioBook

SPEC = ModelSpec(id="m", family="chatml", url="http://127.0.0.1:1")


def chat(**more: Any) -> ChatBody:
    return ChatBody.model_validate({"messages": [{"role": "user", "content": "x"}], **more}, strict=False)


@pytest.mark.parametrize(
    ("more", "parameters"),
    [
        ({}, {}),
        ({"temperature": 0}, {"do_sample": False}),
        ({"temperature": 0, "top_p": 0.5}, {"do_sample": False}),
        ({"top_p": 0}, {"do_sample": False}),
        ({"temperature": 1}, {"do_sample": True, "temperature": 1}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"max_tokens": 5, "max_completion_tokens": 7}, {"max_new_tokens": 7}),
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"seed": -1}, {"seed": 2**64 - 1}),
        ({"frequency_penalty": 0.5}, {"frequency_penalty": 0.5}),
        ({"logprobs": True, "top_logprobs": 2}, {"top_n_tokens": 2}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": 1}}}},
            {"grammar": {"type": "json", "value": {"a": 1}}},
        ),
    ],
    ids=str,
)
def test_parameters_are_tgis(more: dict[str, Any], parameters: dict[str, Any]) -> None:
    [asked] = chat_requests(chat(**more), SPEC, ScenarioBook(), 0.0)

    assert asked.parameters == parameters


def test_top_p_of_one_switches_off_what_the_defaults_say() -> None:
    nothing: Any = None  # preparing a request needs neither engine nor manager
    line = Generations(Registry(models=(SPEC,)), ScenarioBook(), nothing, {}, nothing, 1.0)

    def prepared(**more: Any) -> dict[str, Any]:
        [asked] = chat_requests(chat(**more), SPEC, ScenarioBook(), 0.0)
        return line.prepare(asked).parameters

    assert prepared()["top_p"] == 0.9
    assert "top_p" not in prepared(top_p=1)
    assert prepared(top_p=1)["temperature"] == 0.7


def test_last_message_of_the_assistant_is_continued() -> None:
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "It is"}]
    [asked] = chat_requests(chat(messages=turns), SPEC, ScenarioBook(), 0.0)

    assert asked.continue_final_message


def test_clients_own_system_message_stands_before_a_scenario() -> None:
    turns = [{"role": "system", "content": "mine"}, {"role": "user", "content": "x"}]
    [asked] = chat_requests(chat(messages=turns, scenario="qa"), SPEC, ScenarioBook(), 0.0)
    [bare] = chat_requests(chat(scenario="qa"), SPEC, ScenarioBook(), 0.0)

    assert [message.role for message in asked.messages or ()] == ["system", "user"]
    assert (asked.messages or ())[0].content == "mine"
    assert [message.role for message in bare.messages or ()] == ["system", "user"]
    assert (bare.messages or ())[1].content == "Question: x"


@pytest.mark.parametrize(("own", "expected"), [(None, True), (False, None)])
def test_text_completions_sample_unless_the_operator_says_otherwise(
    own: bool | None, expected: bool | None
) -> None:
    spec = SPEC.model_copy(update={"parameters": Parameters(do_sample=own)})
    [asked] = completion_requests(CompletionBody(prompt=("x",)), spec, 0.0)

    assert asked.parameters.get("do_sample") is expected
