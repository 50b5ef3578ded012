"""The Anthropic dialect over a real socket: its shapes, its rules, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from harness import Event, Running, events_of, model, owned, start_echo, start_gateway, until


@dataclass(frozen=True, slots=True)
class Slow:
    """A gateway in front of an engine that takes its time, and of two that have to come in first."""

    gateway: Running
    engine: Running

    def running_in_engine(self) -> float:
        return self.engine.metric("tgi_batch_current_size")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slow]:
    folder = tmp_path_factory.mktemp("slow")
    engine = start_echo(folder, tokens_per_s=20)
    curbed = model(engine.url, id="curbed", parameters={"stop": ["brave"]})
    away = [owned("late", load_s=1.5), owned("later", load_s=0.5)]
    running = start_gateway(folder, {"models": [model(engine.url), curbed, *away]}, heartbeat_s=0.2)
    yield Slow(running, engine)
    running.stop()
    engine.stop()


HELLO = {"role": "user", "content": "hello brave new world"}
ASKED: dict[str, Any] = {"model": "mirror", "max_tokens": 6, "temperature": 0, "messages": [HELLO]}
FIELDS = {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"}
START = ["message_start", "content_block_start"]
FINISH = ["content_block_stop", "message_delta", "message_stop"]


async def streamed(client: httpx.AsyncClient, body: dict[str, Any]) -> list[Event]:
    async with client.stream("POST", "/v1/messages", json={**body, "stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return [event async for event in events_of(response)]


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def text_of(events: list[Event]) -> str:
    return "".join(event.data["delta"]["text"] for event in events if event.name == "content_block_delta")


def named(events: list[Event], name: str) -> Any:
    [found] = [event.data for event in events if event.name == name]
    return found


# ---------------------------------------------------------------- answers


async def test_plain_answer_has_the_shape_and_our_headers(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/messages", json=ASKED)

    answer = response.json()
    assert set(answer) == FIELDS
    assert re.fullmatch(r"msg_[0-9a-f]{24}", answer["id"])
    assert (answer["type"], answer["role"], answer["model"]) == ("message", "assistant", "echo")
    [block] = answer["content"]
    assert block["type"] == "text"
    assert block["text"]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("max_tokens", None)
    assert answer["usage"]["input_tokens"] > 0
    assert answer["usage"]["output_tokens"] == 6
    assert response.headers["request-id"] == response.headers["x-request-id"]
    assert response.headers["x-gateway-model"] == "echo"
    assert float(response.headers["x-gateway-total-ms"]) > 0


async def test_stream_has_the_events_in_order_and_says_the_same(client: httpx.AsyncClient) -> None:
    plain = (await client.post("/v1/messages", json=ASKED)).json()

    events = await streamed(client, ASKED)

    names = [event.name for event in events]
    assert [names[:2], names[-3:]] == [START, FINISH]
    assert set(names[2:-3]) == {"content_block_delta"}
    assert all(event.data["type"] == event.name for event in events)
    assert text_of(events) == plain["content"][0]["text"]
    start, end = named(events, "message_start")["message"], named(events, "message_delta")
    assert set(start) == FIELDS
    assert (start["model"], start["content"], start["stop_reason"]) == ("echo", [], None)
    assert end["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert end["usage"] == plain["usage"]
    assert end["receipt"]["total_ms"] > 0


async def test_stop_string_of_the_operator_is_the_end_of_the_turn(slow: Slow) -> None:
    async with httpx.AsyncClient(base_url=slow.gateway.url, timeout=20) as client:
        answer = (
            await client.post("/v1/messages", json={**ASKED, "model": "curbed", "max_tokens": 50})
        ).json()

    assert (answer["stop_reason"], answer["stop_sequence"]) == ("end_turn", None)
    assert "brave" not in answer["content"][0]["text"]


@pytest.mark.parametrize(
    "stops",
    [["new"], ["ve n"], ["w", "brave", "ew wor"], ["1", "2", "3", "4", "5", "e n"]],
    ids=["a whole token", "across tokens", "first of several", "beyond what an engine takes"],
)
async def test_stop_sequence_ends_the_text_plain_and_streamed(
    client: httpx.AsyncClient, stops: list[str]
) -> None:
    body = {**ASKED, "max_tokens": 40, "stop_sequences": stops}
    unstopped = (await client.post("/v1/messages", json={**body, "stop_sequences": []})).json()
    whole = unstopped["content"][0]["text"]
    at, stop = min((whole.index(stop) + len(stop), stop) for stop in stops if stop in whole)

    plain = (await client.post("/v1/messages", json=body)).json()
    events = await streamed(client, body)

    assert plain["content"][0]["text"] == text_of(events) == whole[: at - len(stop)]
    ending = {"stop_reason": "stop_sequence", "stop_sequence": stop}
    assert {name: plain[name] for name in ending} == named(events, "message_delta")["delta"] == ending
    assert plain["usage"] == named(events, "message_delta")["usage"]
    assert 0 < plain["usage"]["output_tokens"] < 40
    assert plain["usage"]["input_tokens"] == unstopped["usage"]["input_tokens"]


async def test_count_is_what_a_message_then_uses(client: httpx.AsyncClient) -> None:
    body = {"model": "mirror", "messages": [HELLO], "system": "Be brief."}

    counted = await client.post("/v1/messages/count_tokens", json=body)
    used = (await client.post("/v1/messages", json={**body, "max_tokens": 2})).json()["usage"]

    assert counted.json() == {"input_tokens": used["input_tokens"]}
    assert counted.headers["x-gateway-model"] == "echo"


async def test_waiting_stream_opens_at_once_and_pings(slow: Slow) -> None:
    async with httpx.AsyncClient(base_url=slow.gateway.url, timeout=20) as client:
        events = await streamed(client, {**ASKED, "model": "late"})

    names = [event.name for event in events]
    first_text = names.index("content_block_delta")
    assert names[:2] == START
    assert names[:first_text].count("ping") >= 4
    assert ":" in names[:first_text]
    assert named(events, "message_delta")["receipt"]["load_ms"] > 1000


async def test_count_waits_for_a_model_that_is_away(slow: Slow) -> None:
    async with httpx.AsyncClient(base_url=slow.gateway.url, timeout=20) as client:
        body = {"model": "later", "messages": [HELLO]}
        response = await client.post("/v1/messages/count_tokens", json=body)

    assert response.json()["input_tokens"] > 4


async def test_engine_that_breaks_off_is_an_error_event_at_the_end(echo: Any, gateway: Any) -> None:
    engine = echo(fail="mid-stream")
    running = gateway({"models": [model(engine.url)]})
    async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
        events = await streamed(client, {**ASKED, "model": "echo", "max_tokens": 50})

    assert text_of(events)
    assert events[-1].name == "error"
    assert events[-1].data["type"] == "error"
    assert events[-1].data["error"]["type"] == "api_error"
    assert events[-1].data["request_id"]


@pytest.mark.parametrize("stream", [True, False])
async def test_client_that_leaves_stops_the_engine(slow: Slow, stream: bool) -> None:
    body = {**ASKED, "model": "echo", "max_tokens": 900, "stream": stream}
    async with httpx.AsyncClient(base_url=slow.gateway.url, timeout=1) as client:
        if stream:
            async with client.stream("POST", "/v1/messages", json=body) as response:
                await anext(aiter(events_of(response)))
                assert slow.running_in_engine() == 1
        else:
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/v1/messages", json=body)
    until(lambda: slow.running_in_engine() == 0, "the engine to stop", timeout_s=3)
    until(lambda: slow.gateway.metric("gateway_generations_open") == 0, "the place to be free")
    assert 'model="echo",outcome="client_gone"' in slow.gateway.get("/metrics").text


async def test_stop_string_inside_a_token_stops_the_engine(slow: Slow) -> None:
    body = {**ASKED, "model": "echo", "max_tokens": 900, "stop_sequences": ["ell"]}
    async with httpx.AsyncClient(base_url=slow.gateway.url, timeout=20) as client:
        answer = (await client.post("/v1/messages", json=body)).json()

    assert answer["stop_sequence"] == "ell"
    assert answer["content"][0]["text"].endswith("h")
    until(lambda: slow.running_in_engine() == 0, "the engine to stop", timeout_s=3)
    assert 'model="echo",outcome="ok"' in slow.gateway.get("/metrics").text


async def test_last_turn_of_the_assistant_is_continued(client: httpx.AsyncClient) -> None:
    conversation = [HELLO, turn("assistant", "The answer is (")]
    rendered = {"model_id": "mirror", "messages": conversation, "continue_final_message": True}

    count = (
        await client.post("/v1/messages/count_tokens", json={"model": "mirror", "messages": conversation})
    ).json()
    shown = (await client.post("/v1/render", json=rendered)).json()

    assert shown["prompt"].endswith("The answer is (")
    assert count["input_tokens"] == shown["token_count"]


# ---------------------------------------------------------------- refusals


TOOLS = [{"name": "f", "input_schema": {"type": "object"}}]
RESULT = {"type": "tool_result", "tool_use_id": "c1", "content": "x"}

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
BAD: list[Any] = [
    ({"max_tokens": None}, "max_tokens is required."),
    ({"max_tokens": 0}, "max_tokens must be greater than 0, not 0."),
    ({"model": None}, "model is required."),
    ({"messages": []}, "messages must have at least 1 item"),
    ({"messages": [turn("robot", "x")]}, "messages.0.role must be "),
    ({"messages": [HELLO, turn("user", [IMAGE])]}, "messages.1.content: block 0 is of type `image`"),
    ({"messages": [turn("user", [{"type": "document"}])]}, "block 0 is of type `document`"),
    ({"messages": [turn("user", [{"type": "tool_result"}])]}, "block 0 of type `tool_result` must have"),
    ({"messages": [turn("user", [{"type": "text"}])]}, "messages.0.content: block 0 must be like"),
    ({"messages": [turn("user", 5)]}, "messages.0.content: it is neither a text nor a list of blocks."),
    ({"system": [IMAGE]}, "system: block 0 is of type `image`"),
    ({"temperature": 1.5}, "temperature must be less than or equal to 1, not 1.5."),
    ({"stop_sequences": [""]}, "stop_sequences.0 must be a non-empty string"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0 is none of the client's own tools"),
    ({"tool_choice": {"type": "any"}}, "tool_choice demands a call, and there are no tools."),
    ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice names 'g'"),
    ({"messages": [HELLO, turn("user", [RESULT])]}, "messages.1 is the result of a tool call that no"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking is not supported"),
    ({"output_config": {"effort": "low"}}, "output_config is not supported"),
    ({"max_token": 5}, "max_token does not exist here (did you mean `max_tokens`?)"),
]


@pytest.mark.parametrize(("change", "said"), BAD)
async def test_what_cannot_be_honoured_is_refused_by_its_name(
    client: httpx.AsyncClient, change: dict[str, Any], said: str
) -> None:
    response = await client.post("/v1/messages", json={**ASKED, **change})

    answer = response.json()
    assert (response.status_code, answer["type"]) == (400, "error")
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["message"].startswith(said) or said in answer["error"]["message"]
    assert answer["request_id"] == response.headers["request-id"]


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
    ],
)
async def test_what_the_router_refuses_has_the_envelope(
    client: httpx.AsyncClient, method: str, path: str, status: int, kind: str
) -> None:
    response = await client.request(method, path)

    assert (response.status_code, response.json()["error"]["type"]) == (status, kind)


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"x-api-key": "right"}, 422),
        ({"authorization": "Bearer right"}, 422),
        ({"x-api-key": "right", "authorization": "Bearer wrong"}, 422),
        ({"x-api-key": "wrong", "authorization": "Bearer right"}, 422),
        ({"x-api-key": "wrong"}, 401),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": "Bearer right"}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "right"}, 401),
    ],
)
def test_key_comes_in_either_header(locked: Running, headers: dict[str, str], status: int) -> None:
    everywhere = httpx.post(f"{locked.url}/v1/generate", json={}, headers=headers)
    here = httpx.post(f"{locked.url}/v1/messages", json={}, headers=headers)

    assert everywhere.status_code == status
    assert here.status_code == {422: 400}.get(status, status)
    if status == 401:
        assert here.json()["error"]["type"] == "authentication_error"
        assert "x-api-key" in here.json()["error"]["message"]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    registry = {"models": [model("http://127.0.0.1:1")]}
    running = start_gateway(tmp_path_factory.mktemp("locked"), registry, api_key="right")
    yield running
    running.stop()
