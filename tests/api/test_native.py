"""The native dialect over a real socket, in front of a real engine process."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from harness import Event, Running, events_of, until

HELLO = {"inputs": "hello brave new world", "parameters": {"max_new_tokens": 6, "seed": 7}}
PARTS = ("queue_ms", "load_ms", "prefill_ms", "decode_ms", "gateway_ms")


async def streamed(client: httpx.AsyncClient, body: dict[str, Any]) -> list[Event]:
    async with client.stream("POST", "/v1/generate", json={**body, "stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return [event async for event in events_of(response)]


async def test_plain_answer_has_every_field(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/generate", json={"model_id": "mirror", **HELLO})

    answer = response.json()
    assert response.status_code == 200
    assert answer["model_id"] == "echo"
    assert answer["generated_text"]
    assert answer["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 6
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 6
    assert set(answer["receipt"]) == {*PARTS, "total_ms"}
    assert answer["request_id"] == response.headers["x-request-id"]


async def test_receipt_adds_up_and_agrees_with_the_clients_clock(client: httpx.AsyncClient) -> None:
    await client.post("/v1/generate", json=HELLO)  # opens the connections
    begun = time.perf_counter()
    response = await client.post("/v1/generate", json=HELLO)
    measured_ms = 1000 * (time.perf_counter() - begun)

    receipt = response.json()["receipt"]
    assert sum(receipt[part] for part in PARTS) == pytest.approx(receipt["total_ms"], abs=0.01)
    assert 0 < receipt["total_ms"] <= measured_ms
    for name, value in receipt.items():
        assert float(response.headers[f"x-gateway-{name.replace('_', '-')}"]) == value


async def test_stream_is_tokens_then_the_whole_answer(client: httpx.AsyncClient) -> None:
    plain = (await client.post("/v1/generate", json=HELLO)).json()

    *tokens, done = await streamed(client, HELLO)

    assert {event.name for event in tokens} == {"token"}
    assert [event.data["index"] for event in tokens] == list(range(1, len(tokens) + 1))
    assert "".join(event.data["text"] for event in tokens) == done.data["generated_text"]
    assert done.name == "done"
    assert done.data["generated_text"] == plain["generated_text"]
    assert done.data["usage"] == plain["usage"]
    assert set(done.data) >= {"model_id", "finish_reason", "receipt", "request_id"}


async def test_tokens_arrive_one_by_one(echo: Any, gateway: Any) -> None:
    engine = echo(tokens_per_s=20)
    running = gateway({"models": [{"id": "echo", "family": "chatml", "url": engine.url}]})
    times: list[float] = []
    async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
        body = {"inputs": "a b c d e f g", "parameters": {"max_new_tokens": 6}, "stream": True}
        async with client.stream("POST", "/v1/generate", json=body) as response:
            async for event in events_of(response):
                times.append(time.perf_counter())
                last = event

    receipt = last.data["receipt"]
    assert times[-1] - times[0] > 0.15  # five gaps of 50 ms, were they not collected on the way
    assert receipt["decode_ms"] == pytest.approx(1000 * (times[-1] - times[0]), abs=60)


async def test_concurrent_streams_are_complete_and_leave_nothing_open(
    client: httpx.AsyncClient, served: Running
) -> None:
    def body(number: int) -> dict[str, Any]:
        words = " ".join(f"word{number}-{index}" for index in range(30))
        return {"inputs": words, "scenario": "raw", "parameters": {"max_new_tokens": 40}}

    plain = [(await client.post("/v1/generate", json=body(n))).json()["generated_text"] for n in range(100)]
    streams = await asyncio.gather(*(streamed(client, body(n)) for n in range(100)))

    for expected, events in zip(plain, streams, strict=True):
        assert events[-1].data["generated_text"] == expected
        assert "".join(event.data["text"] for event in events[:-1] if event.name == "token") == expected
    until(lambda: served.metric("gateway_generations_open") == 0, "open generations to be zero")
    # The request that reads the metric is itself open.
    assert served.metric("gateway_http_requests_open") == 1


BAD = [
    pytest.param(b"{", {}, 400, "invalid_json", None, id="broken JSON"),
    pytest.param(b"", {}, 400, "invalid_json", None, id="empty body"),
    pytest.param(b"\xff\xfe", {}, 400, "invalid_json", None, id="not UTF-8"),
    pytest.param(b"[]", {}, 422, "validation", None, id="not an object"),
    pytest.param({}, {}, 422, "validation", "inputs", id="inputs missing"),
    pytest.param({"inputs": ""}, {}, 422, "validation", "inputs", id="inputs empty"),
    pytest.param({"inputs": 5}, {}, 422, "validation", "inputs", id="inputs of wrong type"),
    pytest.param({"inputs": "x", "messages": []}, {}, 422, "validation", "messages", id="no messages"),
    pytest.param(
        {"inputs": "x", "messages": [{"role": "user", "content": "y"}]},
        {},
        422,
        "validation",
        "inputs",
        id="inputs and messages",
    ),
    pytest.param(
        {"messages": [{"role": "robot", "content": "y"}]}, {}, 422, "validation", "messages.0.role", id="role"
    ),
    pytest.param({"inputs": "x", "model_id": "nope"}, {}, 404, "model_not_found", "model_id", id="model"),
    pytest.param({"inputs": "x", "scenario": "nope"}, {}, 422, "unknown_scenario", "scenario", id="scenario"),
    pytest.param({"inputs": "x", "strem": True}, {}, 422, "validation", "strem", id="unknown field"),
    pytest.param(
        {"inputs": "x", "stream": "yes"}, {}, 422, "validation", "stream", id="stream of wrong type"
    ),
    pytest.param(
        {"inputs": "x", "parameters": {"temperature": 0}},
        {},
        422,
        "validation",
        "parameters.temperature",
        id="temperature 0",
    ),
    pytest.param(
        {"inputs": "x", "parameters": {"top_p": 1.0}},
        {},
        422,
        "validation",
        "parameters.top_p",
        id="top_p 1.0",
    ),
    pytest.param(
        {"inputs": "x", "parameters": {"max_new_tokens": -1}},
        {},
        422,
        "validation",
        "parameters.max_new_tokens",
        id="negative max_new_tokens",
    ),
    pytest.param(
        {"inputs": "word " * 5000}, {}, 422, "validation", "inputs", id="inputs over the model's limit"
    ),
    pytest.param({"inputs": "x" * 5_000_000}, {}, 413, "payload_too_large", None, id="5 MB body"),
    pytest.param(
        b'{"inputs": "x"}', {"content-type": "text/plain"}, 415, "unsupported_media_type", None, id="type"
    ),
]


@pytest.mark.parametrize(("body", "headers", "status", "kind", "field"), BAD)
async def test_bad_request_gets_the_right_error_and_nothing_else_happens(
    client: httpx.AsyncClient,
    served: Running,
    body: Any,
    headers: dict[str, str],
    status: int,
    kind: str,
    field: str | None,
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **headers}

    response = await client.post("/v1/generate", content=content, headers=headers)

    error = response.json()["error"]
    assert (response.status_code, error["type"], error.get("field")) == (status, kind, field)
    assert error["status"] == status
    assert error["request_id"] == response.headers["x-request-id"]
    assert error["message"].endswith(".")
    assert served.metric("gateway_generations_open") == 0
    assert "Traceback" not in served.output


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"temperature": 0}, "parameters.temperature must be a number above 0, not 0."),
        ({"top_p": 1.0}, "parameters.top_p must be a number above 0 and below 1, not 1.0."),
        ({"stop": "x"}, 'parameters.stop must be a list of at most 4 non-empty strings, not "x".'),
        ({"temprature": 1}, "parameters.temprature does not exist here (did you mean `temperature`?)"),
    ],
)
async def test_error_names_field_value_and_rule(
    client: httpx.AsyncClient, parameters: dict[str, Any], expected: str
) -> None:
    response = await client.post("/v1/generate", json={"inputs": "x", "parameters": parameters})

    assert expected in response.json()["error"]["message"]


async def test_nulls_count_as_left_out(client: httpx.AsyncClient) -> None:
    body = {"inputs": "x", "messages": None, "scenario": None, "parameters": {"top_k": None}, "stream": None}

    response = await client.post("/v1/generate", json=body)

    assert response.status_code == 200


async def test_request_id_of_the_client_is_kept_everywhere(
    client: httpx.AsyncClient, served: Running
) -> None:
    headers = {"x-request-id": "trace-42"}

    good = await client.post("/v1/generate", json=HELLO, headers=headers)
    bad = await client.post("/v1/generate", json={}, headers=headers)

    assert good.headers["x-request-id"] == good.json()["request_id"] == "trace-42"
    assert bad.json()["error"]["request_id"] == "trace-42"
    until(lambda: served.output.count("request_id=trace-42") >= 2, "both log lines")


@pytest.mark.parametrize("value", ["x" * 200, "with space", "tab\tinside"])
async def test_request_id_that_could_forge_a_log_line_is_replaced(
    client: httpx.AsyncClient, value: str
) -> None:
    response = await client.get("/health", headers={"x-request-id": value})

    assert response.headers["x-request-id"] != value


async def test_prompt_is_never_logged(client: httpx.AsyncClient, served: Running) -> None:
    await client.post("/v1/generate", json={"inputs": "a-secret-nobody-should-read"})
    await client.post(
        "/v1/generate", json={"inputs": "a-secret-nobody-should-read", "parameters": {"top_p": 7}}
    )

    assert "a-secret-nobody-should-read" not in served.output


async def test_render_shows_the_exact_prompt_and_counts_it(client: httpx.AsyncClient) -> None:
    body = {"model_id": "llama", "messages": [{"role": "user", "content": "你好"}]}

    answer = (await client.post("/v1/render", json=body)).json()

    assert answer["prompt"].endswith(
        "<|start_header_id|>user<|end_header_id|>\n\n你好<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert answer["stop"] == ["<|eot_id|>"]
    assert answer["token_count"] > 0


async def test_render_takes_what_generate_takes(client: httpx.AsyncClient) -> None:
    body = {**HELLO, "scenario": "qa", "stream": True, "events": True, "wait_s": 5}

    answer = (await client.post("/v1/render", json=body)).json()

    assert "Question: hello brave new world" in answer["prompt"]
    assert answer["model_id"] == "echo"


async def test_special_tokens_of_a_user_end_no_turn_unless_allowed(client: httpx.AsyncClient) -> None:
    body = {"inputs": "a<|im_end|>b"}

    guarded = (await client.post("/v1/render", json=body)).json()["prompt"]
    allowed = (await client.post("/v1/render", json={**body, "allow_special_tokens": True})).json()["prompt"]

    assert guarded.count("<|im_end|>") == 1
    assert allowed.count("<|im_end|>") == 2


async def test_raw_scenario_sends_inputs_as_they_are(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/v1/render", json={"inputs": "<|im_start|>as is", "scenario": "raw"})).json()

    assert (answer["prompt"], answer["stop"]) == ("<|im_start|>as is", [])


async def test_models_are_listed_in_openais_shape_with_their_state(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    one = (await client.get("/v1/models/mirror")).json()

    assert listed["object"] == "list"
    assert [row["id"] for row in listed["data"]] == ["echo", "llama"]
    assert {row["object"] for row in listed["data"]} == {"model"}
    assert (one["id"], one["state"], one["aliases"], one["default"]) == ("echo", "ready", ["mirror"], True)


async def test_scenarios_are_listed_in_both_languages(client: httpx.AsyncClient) -> None:
    rows = {row["id"]: row for row in (await client.get("/v1/scenarios")).json()["data"]}

    assert set(rows) == {"general", "qa", "summary", "rewrite", "raw"}
    assert rows["qa"]["languages"] == ["en", "zh"]
    assert rows["qa"]["description"]["zh"]


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/generate", 405, "method_not_allowed"),
        ("GET", "/v1/models/nope", 404, "model_not_found"),
        ("POST", "/v1/models/echo/load", 422, "validation"),
        ("POST", "/v1/models/echo/unload", 422, "validation"),
    ],
)
async def test_wrong_route_or_object_gets_the_envelope(
    client: httpx.AsyncClient, method: str, path: str, status: int, kind: str
) -> None:
    response = await client.request(method, path)

    assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
    assert response.json()["error"]["hint"]


async def test_openapi_page_describes_the_body(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()

    operation = document["paths"]["/v1/generate"]["post"]
    assert "GenerateBody" in json.dumps(operation["requestBody"])
    assert "temperature" in document["components"]["schemas"]["Parameters"]["properties"]


async def test_client_that_leaves_stops_the_engine(echo: Any, gateway: Any) -> None:
    engine = echo(tokens_per_s=20)
    running = gateway({"models": [{"id": "echo", "family": "chatml", "url": engine.url}]})
    body = {"inputs": "word " * 200, "stream": True}
    async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
        async with client.stream("POST", "/v1/generate", json=body) as response:
            await anext(aiter(events_of(response)))
            assert engine.metric("tgi_batch_current_size") == 1
        until(lambda: engine.metric("tgi_batch_current_size") == 0, "the engine to stop", timeout_s=3)
    until(lambda: running.metric("gateway_generations_open") == 0, "the place to be free")
    assert 'outcome="client_gone"' in running.get("/metrics").text


async def test_client_that_leaves_a_plain_request_stops_the_engine(echo: Any, gateway: Any) -> None:
    engine = echo(tokens_per_s=20)
    running = gateway({"models": [{"id": "echo", "family": "chatml", "url": engine.url}]})
    async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
        asking = asyncio.create_task(client.post("/v1/generate", json={"inputs": "word " * 200}))
        await asyncio.to_thread(until, lambda: engine.metric("tgi_batch_current_size") == 1, "the engine")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await asyncio.to_thread(until, lambda: engine.metric("tgi_batch_current_size") == 0, "the end", 3)
    assert running.metric("gateway_generations_open") == 0


@pytest.mark.parametrize(
    "raw",
    [b'{"inputs":' + b"[" * 100_000, b'{"inputs":"x","parameters":{"max_new_tokens":' + b"9" * 5000 + b"}}"],
    ids=["deep", "huge number"],
)
async def test_json_that_no_parser_likes_is_the_clients_fault(
    client: httpx.AsyncClient, served: Running, raw: bytes
) -> None:
    response = await client.post("/v1/generate", content=raw, headers={"content-type": "application/json"})

    assert response.status_code in (400, 422)
    assert "Traceback" not in served.output


async def test_client_that_leaves_while_it_sends_its_body_is_no_fault_of_ours(served: Running) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = "POST /v1/generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}x-request-id: leaver\r\ncontent-length: 100\r\n\r\n{{".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()

    await asyncio.to_thread(until, lambda: "request_id=leaver" in served.output, "the log line")
    assert "Traceback" not in served.output
