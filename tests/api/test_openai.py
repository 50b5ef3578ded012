"""The OpenAI dialect over a real socket: bodies, chunks and errors, byte by byte where clients look."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from harness import Running, until

from gateway.api.openai_answers import CHAT, error_body
from gateway.errors import InvalidRequest, Overloaded

CHAT_PATH, TEXT_PATH = "/v1/chat/completions", "/v1/completions"
HELLO = {"messages": [{"role": "user", "content": "hello brave new world"}], "max_tokens": 6, "seed": 7}
WORDS = {"prompt": "alpha beta gamma", "max_tokens": 6, "seed": 0, "temperature": 0}


async def chunks(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The chunks of a stream that ends as it should."""
    async with client.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        text = (await response.aread()).decode()
    *lines, done = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    assert done == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def said(parts: Sequence[dict[str, Any]], index: int = 0) -> str:
    """What the choice ``index`` says over all chunks of a chat."""
    choices = [choice for part in parts for choice in part["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)


# ---------------------------------------------------------------- answers


async def test_chat_answer_has_every_key_that_clients_read(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT_PATH, json={"model": "mirror", **HELLO})

    answer = response.json()
    [choice] = answer["choices"]
    assert (response.status_code, answer["object"], answer["model"]) == (200, "chat.completion", "echo")
    assert answer["id"] == f"chatcmpl-{response.headers['x-request-id']}"
    assert answer["created"] > 1_700_000_000
    assert answer["system_fingerprint"].startswith("fp_")
    assert choice["message"]["role"] == "assistant"
    assert "brave new" in choice["message"]["content"]
    assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (0, None, "length")
    usage = answer["usage"]
    assert usage["completion_tokens"] == 6
    assert usage["total_tokens"] == usage["prompt_tokens"] + 6
    for name, value in answer["receipt"].items():
        assert float(response.headers[f"x-gateway-{name.replace('_', '-')}"]) == value


async def test_chunks_are_the_whole_answer_in_pieces(client: httpx.AsyncClient) -> None:
    plain = (await client.post(CHAT_PATH, json=HELLO)).json()

    first, *rest = await chunks(client, CHAT_PATH, HELLO)

    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert not any("role" in choice["delta"] for part in rest for choice in part["choices"])
    assert {part["id"] for part in rest} == {first["id"]}
    assert first["id"].startswith("chatcmpl-")
    assert {part["object"] for part in rest} == {"chat.completion.chunk"}
    assert said(rest) == plain["choices"][0]["message"]["content"]
    reasons = [part["choices"][0]["finish_reason"] for part in rest]
    assert reasons == [None] * (len(rest) - 1) + ["length"]
    assert set(rest[-1]["receipt"]) == set(plain["receipt"])
    assert not any("usage" in part for part in rest)


async def test_usage_comes_in_a_chunk_of_its_own_when_asked_for(client: httpx.AsyncClient) -> None:
    plain = (await client.post(CHAT_PATH, json=HELLO)).json()

    *parts, last = await chunks(client, CHAT_PATH, {**HELLO, "stream_options": {"include_usage": True}})

    assert last["choices"] == []
    assert last["usage"] == plain["usage"]
    assert "receipt" in last
    assert {part["usage"] for part in parts} == {None}


async def test_text_completion_continues_the_prompt_without_a_template(client: httpx.AsyncClient) -> None:
    plain = (await client.post(TEXT_PATH, json=WORDS)).json()
    parts = await chunks(client, TEXT_PATH, WORDS)

    assert plain["object"] == "text_completion"
    assert plain["id"].startswith("cmpl-")
    assert plain["choices"] == [
        {"index": 0, "text": "alpha beta gamma alpha beta gamma", "logprobs": None, "finish_reason": "length"}
    ]
    assert plain["usage"] == {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
    assert "".join(part["choices"][0]["text"] for part in parts) == plain["choices"][0]["text"]


async def test_several_prompts_have_choices_in_a_row_and_count_once(client: httpx.AsyncClient) -> None:
    body = {**WORDS, "prompt": ["one two", "three four five"], "n": 2, "max_tokens": 2}

    answer = (await client.post(TEXT_PATH, json=body)).json()

    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    texts = [choice["text"].split()[0] for choice in answer["choices"]]
    assert [text in ("one", "two") for text in texts] == [True, True, False, False]
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13}


async def test_choices_differ_by_seed_and_come_interleaved(client: httpx.AsyncClient) -> None:
    body = {**HELLO, "n": 3, "temperature": 1}

    plain = (await client.post(CHAT_PATH, json=body)).json()
    parts = await chunks(client, CHAT_PATH, body)

    texts = [choice["message"]["content"] for choice in plain["choices"]]
    assert len(set(texts)) == 3
    assert [said(parts, index) for index in range(3)] == texts
    assert plain["usage"]["completion_tokens"] == 18
    roles = [part["choices"][0]["index"] for part in parts if "role" in part["choices"][0]["delta"]]
    assert sorted(roles) == [0, 1, 2]


@pytest.mark.parametrize(
    ("stop", "text", "reason"),
    [
        ("gamma", "alpha beta ", "stop"),
        (["gamma", " beta"], "alpha", "stop"),
        ("et", "alpha b", "stop"),  # inside a token, where the engine does not see it
        ("a gamma", "alpha bet", "stop"),  # over two tokens
        ("omega", "alpha beta gamma alpha beta gamma", "length"),
        ("gammas", "alpha beta gamma alpha beta gamma", "length"),  # held back at the very end
    ],
)
async def test_text_ends_before_the_stop_string(
    client: httpx.AsyncClient, stop: Any, text: str, reason: str
) -> None:
    body = {**WORDS, "stop": stop}

    plain = (await client.post(TEXT_PATH, json=body)).json()
    parts = await chunks(client, TEXT_PATH, body)

    assert (plain["choices"][0]["text"], plain["choices"][0]["finish_reason"]) == (text, reason)
    assert "".join(part["choices"][0]["text"] for part in parts) == text
    assert parts[-1]["choices"][0]["finish_reason"] == reason


async def test_stop_string_inside_a_token_stops_the_engine_too(echo: Any, gateway: Any) -> None:
    engine = echo(tokens_per_s=20)
    running = gateway({"models": [{"id": "echo", "family": "chatml", "url": engine.url}]})
    body = {**WORDS, "stop": "et", "max_tokens": 1000}
    async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
        answer = (await client.post(TEXT_PATH, json=body)).json()

    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    until(lambda: engine.metric("tgi_batch_current_size") == 0, "the engine to stop", timeout_s=3)
    assert 'outcome="ok"' in running.get("/metrics").text


async def test_logprobs_stand_beside_each_token(client: httpx.AsyncClient) -> None:
    body = {**HELLO, "logprobs": True, "top_logprobs": 1}

    [choice] = (await client.post(CHAT_PATH, json=body)).json()["choices"]
    parts = await chunks(client, CHAT_PATH, body)

    entries = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == choice["message"]["content"]
    assert all(
        entry["logprob"] <= 0 and bytes(entry["bytes"]).decode() == entry["token"] for entry in entries
    )
    assert [entry["top_logprobs"][0]["token"] for entry in entries] == [entry["token"] for entry in entries]
    streamed = [part["choices"][0]["logprobs"] for part in parts if part["choices"][0]["logprobs"]]
    assert [entry for one in streamed for entry in one["content"]] == entries


async def test_logprobs_of_text_have_offsets_and_end_with_the_text(client: httpx.AsyncClient) -> None:
    body = {**WORDS, "logprobs": 0, "stop": "mm"}

    [choice] = (await client.post(TEXT_PATH, json=body)).json()["choices"]

    assert choice["text"] == "alpha beta ga"
    assert choice["logprobs"]["tokens"] == ["alpha", " beta", " gamma"]
    assert choice["logprobs"]["text_offset"] == [0, 5, 10]
    assert choice["logprobs"]["top_logprobs"] is None


async def test_scenario_wraps_the_last_user_message(client: httpx.AsyncClient) -> None:
    body = {**HELLO, "scenario": "qa", "max_tokens": 200, "stop": "world"}

    answer = (await client.post(CHAT_PATH, json=body)).json()

    assert "Question: hello brave new" in answer["choices"][0]["message"]["content"]


async def test_nulls_and_unknown_fields_count_as_left_out(client: httpx.AsyncClient) -> None:
    nulls = ["model", "temperature", "top_p", "stop", "n", "stream", "stream_options", "tools", "tool_choice"]
    nulls += ["logprobs", "top_logprobs", "logit_bias", "response_format", "presence_penalty", "user"]
    message = {"role": "user", "content": "x", "name": None, "tool_calls": None}
    body = {"messages": [message], **dict.fromkeys(nulls), "metadata": {"a": "b"}, "new_in_2030": 1}

    response = await client.post(CHAT_PATH, json=body)

    assert response.status_code == 200


@pytest.mark.parametrize("name", ["tgi", "dummy", "", None, "echo", "mirror"])
async def test_names_that_mean_the_default_model(client: httpx.AsyncClient, name: str | None) -> None:
    answer = (await client.post(CHAT_PATH, json={**HELLO, "model": name})).json()

    assert answer["model"] == "echo"


# ---------------------------------------------------------------- errors

IMAGE = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:"}}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
UNSUPPORTED = [
    pytest.param({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0.type", id="custom tool"),
    pytest.param(
        {"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice", id="allowed tools"
    ),
    pytest.param({"functions": [{"name": "f"}]}, "functions", id="functions"),
    pytest.param({"function_call": {"name": "f"}}, "function_call", id="function_call"),
    pytest.param({"logit_bias": {"50256": -100}}, "logit_bias", id="logit_bias"),
    pytest.param({"presence_penalty": 0.5}, "presence_penalty", id="presence_penalty"),
    pytest.param({"modalities": ["text", "audio"]}, "modalities", id="modalities"),
    pytest.param({"audio": {"voice": "a"}}, "audio", id="audio"),
    pytest.param({"web_search_options": {}}, "web_search_options", id="web search"),
    pytest.param({"response_format": {"type": "yaml"}}, "response_format.type", id="response_format"),
    pytest.param({"messages": [{"role": "user", "content": IMAGE}]}, "messages.0.content.1", id="image part"),
    pytest.param({"messages": [{"role": "function", "content": "x"}]}, "messages.0.role", id="function"),
]


@pytest.mark.parametrize(("more", "param"), UNSUPPORTED)
async def test_what_would_change_the_answer_is_refused_by_name(
    client: httpx.AsyncClient, more: dict[str, Any], param: str
) -> None:
    response = await client.post(CHAT_PATH, json={**HELLO, **more})

    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (422, "invalid_request_error")
    assert (error["param"], error["code"]) == (param, "unsupported_parameter")
    assert "supported" in error["message"]
    assert error["hint"]


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [], "tool_choice": "none"},
        {"tool_choice": "auto", "parallel_tool_calls": True},
        {"presence_penalty": 0, "frequency_penalty": 0},
        {"logit_bias": {}, "modalities": ["text"], "response_format": {"type": "text"}},
        {"top_p": 1, "temperature": 1},
        {"messages": [{"role": "developer", "content": [{"type": "text", "text": "a"}]}]},
    ],
    ids=str,
)
async def test_what_asks_for_nothing_is_accepted(client: httpx.AsyncClient, more: dict[str, Any]) -> None:
    response = await client.post(CHAT_PATH, json={**HELLO, **more})

    assert response.status_code == 200, response.text


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def bad_with_tools() -> list[Any]:
    """What does not fit together, and the field that is named."""
    said = HELLO["messages"]
    called = [*said, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "demanded without tools": ({"tool_choice": "required"}, "tool_choice"),
        "named without tools": ({"tool_choice": {"function": {"name": "f"}}}, "tool_choice"),
        "names no tool": ({"tools": TOOLS, "tool_choice": {"function": {"name": "g"}}}, "tool_choice"),
        "odd choice": ({"tools": TOOLS, "tool_choice": 5}, "tool_choice"),
        "two of one name": ({"tools": TOOLS * 2}, "tools"),
        "bad name": ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        "no function": ({"tools": [{"type": "function"}]}, "tools.0.function"),
        "result without an id": (
            {"messages": [*called, {"role": "tool", "content": "x"}]},
            "messages.2.tool_call_id",
        ),
        "result of no call": (
            {"messages": [*called, {"role": "tool", "content": "x", "tool_call_id": "c2"}]},
            "messages.2",
        ),
        "calls of the user": ({"messages": [{**said[0], "tool_calls": [CALL]}]}, "messages.0"),
        "assistant last": ({"messages": called}, "messages.1"),
        "call without an id": (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]},
            "messages.0.tool_calls.0.id",
        ),
    }
    return [
        pytest.param({**HELLO, **more}, 422, None, field, id=name) for name, (more, field) in cases.items()
    ]


BAD = [
    *bad_with_tools(),
    pytest.param(b"{", 400, "invalid_json", None, id="broken JSON"),
    pytest.param({}, 422, None, "messages", id="messages missing"),
    pytest.param({"messages": []}, 422, None, "messages", id="no messages"),
    pytest.param(
        {"messages": [{"role": "robot", "content": "x"}]}, 422, None, "messages.0.role", id="unknown role"
    ),
    pytest.param({"messages": [{"role": "user"}]}, 422, None, "messages.0.content", id="no content"),
    pytest.param({**HELLO, "model": "nope"}, 404, "model_not_found", "model", id="unknown model"),
    pytest.param({**HELLO, "scenario": "nope"}, 422, "unknown_scenario", "scenario", id="unknown scenario"),
    pytest.param({**HELLO, "scenario": "raw"}, 422, None, "scenario", id="raw scenario"),
    pytest.param({**HELLO, "max_tokens": 0}, 422, None, "max_tokens", id="max_tokens 0"),
    pytest.param({**HELLO, "temperature": 3}, 422, None, "temperature", id="temperature 3"),
    pytest.param({**HELLO, "stop": list("abcde")}, 422, None, "stop", id="five stops"),
    pytest.param({**HELLO, "n": 17}, 422, None, "n", id="17 choices"),
    pytest.param({**HELLO, "top_logprobs": 2}, 422, None, "top_logprobs", id="top_logprobs alone"),
    pytest.param(
        {"messages": [{"role": "user", "content": "word " * 3000}]},
        422,
        "context_length_exceeded",
        "messages",
        id="too long",
    ),
    pytest.param(
        {**HELLO, "response_format": {"type": "json_object"}},
        422,
        None,
        "response_format.schema",
        id="json_object without a schema",
    ),
    pytest.param(
        {**HELLO, "response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": {}}}}},
        422,
        None,
        "response_format",
        id="grammar, which the echo engine refuses",
    ),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("body", "status", "code", "param"), BAD)
async def test_bad_request_gets_openais_envelope(
    client: httpx.AsyncClient,
    served: Running,
    body: Any,
    status: int,
    code: str | None,
    param: str | None,
    stream: bool,
) -> None:
    content = body if isinstance(body, bytes) else json.dumps({**body, "stream": stream}).encode()

    response = await client.post(CHAT_PATH, content=content, headers={"content-type": "application/json"})

    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (status, "invalid_request_error")
    assert (error["code"], error["param"]) == (code, param), error
    assert error["request_id"] == response.headers["x-request-id"]
    assert response.headers["x-should-retry"] == "false"
    assert served.metric("gateway_generations_open") == 0
    assert "Traceback" not in served.output


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/embeddings", 501, "not_offered"),
        ("POST", "/v1/responses", 501, "not_offered"),
        ("POST", "/v1/images/generations", 501, "not_offered"),
        ("POST", "/v1/audio/speech", 501, "not_offered"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/v1/responses/resp_1", 404, "unknown_url"),
    ],
)
async def test_rest_of_the_api_is_a_clear_no(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    response = await client.request(method, path)

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.headers["x-should-retry"] == "false"


async def test_missing_key_is_openais_error(fast_engine: Running, gateway: Any) -> None:
    running = gateway({"models": [{"id": "echo", "url": fast_engine.url, "family": "chatml"}]}, api_key="k")
    async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
        response = await client.post(CHAT_PATH, json=HELLO)

    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


def test_field_names_are_those_of_the_route() -> None:
    too_many = InvalidRequest("x", field="parameters.max_new_tokens")

    assert error_body(too_many, "r", "messages")["error"]["param"] == "max_tokens"
    assert error_body(InvalidRequest("x", field="inputs"), "r", "prompt")["error"]["param"] == "prompt"


def test_rate_limit_keeps_its_time() -> None:
    error = CHAT.error(Overloaded("full", retry_after_s=3.0), "r")["error"]

    assert (error["code"], error["retry_after_s"]) == ("rate_limit_exceeded", 3.0)
