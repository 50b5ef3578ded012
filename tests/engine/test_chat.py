"""The embedded engine's chat route: TGI's shape, and calls that a grammar forces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from engine_process import Engine, launch

from gateway.engine.chat_calls import CallReader
from gateway.engine.instances import instance_of

PATH = "/v1/chat/completions"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SIZE = {
    "properties": {"unit": {"enum": ["c", "f"]}, "days": {"$ref": "#/$defs/days"}},
    "required": ["unit", "days"],
    "$defs": {"days": {"type": "array", "items": {"$ref": "#/$defs/day"}, "minItems": 1, "maxItems": 2},
              "day": {"type": "integer"}},
}  # fmt: skip
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "of a city", "parameters": CITY},
}
FORECAST = {"type": "function", "function": {"name": "forecast", "arguments": SIZE}}
QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
ASKED: dict[str, Any] = {
    "messages": [QUESTION],
    "tools": [WEATHER, FORECAST],
    "temperature": 0,
    "max_tokens": 120,
}


@pytest.fixture(scope="module")
def echo() -> Iterator[Engine]:
    engine = launch("--backend", "echo", "--model-id", "tested", "--slots", "1", "--tokens-per-s", "200")
    yield engine.wait_ready()
    engine.finish()


@pytest.fixture(scope="module")
def llama(small_model: str) -> Iterator[Engine]:
    room = ("--slots", "2", "--context-per-slot", "640")
    engine = launch("--backend", "llama", "--model", small_model, "--model-id", "tested", *room)
    yield engine.wait_ready()
    engine.finish()


@pytest.fixture(params=["echo", pytest.param("llama", marks=pytest.mark.weights)])
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.getfixturevalue(request.param)
    return found


def asked(engine: Engine, **more: Any) -> dict[str, Any]:
    answer = engine.post(PATH, {**ASKED, **more})
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    return dict(choice)


def streamed(engine: Engine, **more: Any) -> list[Any]:
    """The events of a stream, without the last line, which is checked."""
    with engine.http.stream("POST", engine.url + PATH, json={**ASKED, "stream": True, **more}) as answer:
        assert answer.status_code == 200
        lines = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", ["weather", "forecast"])
def test_a_named_tool_is_called_with_arguments_that_fit_its_schema(engine: Engine, name: str) -> None:
    choice = asked(engine, tool_choice={"type": "function", "function": {"name": name}})

    [call] = choice["message"]["tool_calls"]
    assert (call["id"], call["type"], call["function"]["name"]) == ("0", "function", name)
    arguments = json.loads(call["function"]["arguments"])
    if name == "weather":
        assert arguments.keys() == {"city"}
        assert isinstance(arguments["city"], str)
    else:
        assert arguments["unit"] in ("c", "f")
        assert all(isinstance(day, int) for day in arguments["days"])
        assert 1 <= len(arguments["days"]) <= 2


def test_some_tool_is_called_where_that_is_required(engine: Engine) -> None:
    choice = asked(engine, tool_choice="required")

    assert choice["message"]["tool_calls"][0]["function"]["name"] in ("weather", "forecast")
    assert choice["finish_reason"] == "stop"  # which is TGI's word for it


def test_a_stream_has_the_same_call_in_tgis_pieces(engine: Engine) -> None:
    whole = asked(engine, tool_choice="required")["message"]["tool_calls"][0]["function"]
    *parts, end, usage = streamed(engine, tool_choice="required", stream_options={"include_usage": True})

    calls = [part["choices"][0]["delta"]["tool_calls"][0] for part in parts]
    assert [call["function"]["name"] for call in calls] == [whole["name"], *[None] * (len(calls) - 1)]
    assert "".join(call["function"]["arguments"] for call in calls) == whole["arguments"]
    assert {(call["index"], call["id"]) for call in calls} == {(0, "0")}
    assert {part["id"] for part in parts} == {""}
    assert (end["choices"][0]["finish_reason"], end["usage"]) == ("stop", None)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] > 0


def test_without_tools_or_with_none_the_answer_is_text(engine: Engine) -> None:
    without = asked(engine, tools=None, max_tokens=12)
    none = asked(engine, tool_choice="none", max_tokens=12)

    assert without["message"] == none["message"]
    assert set(without["message"]) == {"role", "content"}
    assert without["message"]["content"]


def test_echo_calls_the_first_tool_and_answers_in_words_once_it_has_a_result(echo: Engine) -> None:
    assert asked(echo)["message"]["tool_calls"][0]["function"]["name"] == "weather"

    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    turns = [
        QUESTION,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "sunny and warm", "tool_call_id": "c1"},
    ]
    plain = asked(echo, messages=turns)
    parts = streamed(echo, messages=turns)

    assert "sunny and warm" in plain["message"]["content"]
    assert "".join(part["choices"][0]["delta"]["content"] for part in parts) == plain["message"]["content"]
    assert echo.metric("tgi_request_success") > 0


def test_the_small_model_finds_the_argument_in_the_question(llama: Engine) -> None:
    call = asked(llama, tools=[WEATHER], tool_choice="required")["message"]["tool_calls"][0]

    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}


def test_the_small_model_calls_reads_the_result_and_answers_in_words(llama: Engine) -> None:
    called = asked(llama, tools=[WEATHER])["message"]["tool_calls"]
    result = {"role": "tool", "content": "sunny, 20 degrees", "tool_call_id": "0"}
    turns = [QUESTION, {"role": "assistant", "tool_calls": called}, result]
    parts = streamed(llama, messages=turns, tools=[WEATHER])

    said = "".join(part["choices"][0]["delta"]["content"] for part in parts)
    assert "sunny" in said
    assert "20" in said
    greeting = [{"role": "user", "content": "Hello, who are you?"}]
    assert asked(llama, messages=greeting, tools=[WEATHER], max_tokens=20)["message"]["content"]


def test_a_call_that_is_cut_off_ends_a_stream_with_length_and_a_plain_answer_with_an_error(
    engine: Engine,
) -> None:
    parts = streamed(engine, tool_choice="required", max_tokens=3)
    refused = engine.post(PATH, {**ASKED, "tool_choice": "required", "max_tokens": 3})

    assert parts[-1]["choices"][0]["finish_reason"] == "length"
    assert (refused.status_code, refused.json()["error_type"]) == (422, "tool_error")


@pytest.mark.parametrize(
    ("more", "kind", "said"),
    [
        ({"tool_choice": {"function": {"name": "x"}}}, "tool_error", "Tool with name x not found"),
        ({"response_format": {"type": "json", "value": CITY}}, "tool_error", "mutually exclusive"),
        ({"tools": [{"function": {"name": "f", "parameters": [1]}}]}, "validation", "not a JSON schema"),
        ({"top_p": 1.0, "temperature": 0.5}, "validation", "`top_p`"),
    ],
)
def test_refusals_are_tgis(echo: Engine, more: dict[str, Any], kind: str, said: str) -> None:
    answer = echo.post(PATH, {**ASKED, **more})

    assert (answer.status_code, answer.json()["error_type"]) == (422, kind)
    assert said in answer.json()["error"]


def test_an_error_in_a_stream_is_an_event_that_says_422_and_done_follows(echo: Engine) -> None:
    [event] = streamed(echo, messages=[{"role": "user", "content": "word " * 3000}])

    assert event["error"]["http_status_code"] == 422
    assert event["error"]["message"].startswith("Input validation error: ")


@pytest.mark.parametrize("body", [{"stop": "x"}, {"messages": []}, {"stream_options": None}])
def test_bodies_that_tgi_cannot_read_are_refused_as_plain_text(echo: Engine, body: dict[str, Any]) -> None:
    answer = echo.post(PATH, {**ASKED, **body})

    assert answer.status_code == 422
    assert answer.headers["content-type"].startswith("text/plain")


def test_a_client_that_leaves_frees_the_slot(echo: Engine) -> None:
    endless = {**ASKED, "tools": None, "max_tokens": 1500, "stream": True}
    with echo.http.stream("POST", echo.url + PATH, json=endless) as answer:
        next(answer.iter_lines())
    assert asked(echo, tool_choice="required")["message"]["tool_calls"]


def test_logprobs_of_what_is_said_are_in_openais_form(llama: Engine) -> None:
    choice = asked(llama, tools=None, max_tokens=3, logprobs=True, top_logprobs=2)

    rows = choice["logprobs"]["content"]
    assert "".join(row["token"] for row in rows) == choice["message"]["content"]
    assert all(row["logprob"] <= 0 and len(row["top_logprobs"]) == 2 for row in rows)


def test_tools_are_part_of_the_prompt_that_is_counted(engine: Engine) -> None:
    shown = engine.post("/chat_tokenize", ASKED).json()
    bare = engine.post("/chat_tokenize", {**ASKED, "tools": None}).json()

    assert "of a city" in shown["templated_text"]
    assert len(shown["tokenize_response"]) > len(bare["tokenize_response"])


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize("size", [1, 2, 7, 200])
@pytest.mark.parametrize("arguments", ["{}", '{"a": {"b": "}"}}', '{"a": [1, {"c": "\\"}"}]}', '{ "a": 1 }'])
def test_arguments_come_out_whole_however_the_text_is_cut(size: int, arguments: str) -> None:
    inside = arguments.strip()[1:-1].strip()
    text = f'{{ "function": {{"_name": "f"{", " if inside else ""}{inside} }} }}'
    reader = CallReader()
    pieces = [piece for at in range(0, len(text), size) for piece in reader.feed(text[at : at + size])]
    pieces += reader.finish(complete=True)

    assert reader.name == "f"
    assert [piece.name for piece in pieces if piece.name] == ["f"]
    assert json.loads("".join(piece.arguments for piece in pieces)) == json.loads(arguments)


@pytest.mark.parametrize(
    ("schema", "made"),
    [
        ({"type": "object", "properties": {"a": {"const": 5}, "b": {}}, "required": ["a"]}, {"a": 5}),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        ({"type": ["integer", "null"], "minimum": 3}, 3),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"enum": ["x", "y"]}}}, "x"),
        ({"type": "string", "minLength": 2}, "xx"),
        ({"default": [1]}, [1]),
    ],
)
def test_an_instance_is_the_first_of_what_a_schema_allows(schema: dict[str, Any], made: Any) -> None:
    assert instance_of(schema) == made


def test_a_schema_without_an_end_has_no_instance() -> None:
    with pytest.raises(ValueError, match="no end"):
        instance_of({"properties": {"a": {"$ref": "#"}}, "required": ["a"]})
