"""TGI's own API at the gateway's port, over real sockets; what an engine itself answers is the yardstick."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from harness import Running, model, start_gateway

from gateway.api.tgi_bodies import error_body
from gateway.errors import (
    EngineError,
    EngineTimeout,
    GatewayError,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    PayloadTooLarge,
    Unauthorized,
    WaitTimeout,
)
from gateway.upstream.base import Truncated

HELLO = {"inputs": "hello brave new world", "parameters": {"max_new_tokens": 6}}
TIMES = ("x-total-time", "x-validation-time", "x-queue-time", "x-inference-time", "x-time-per-token")
NULLS = dict.fromkeys(
    (
        *("best_of", "temperature", "top_p", "top_k", "typical_p", "seed", "stop", "truncate", "grammar"),
        *("do_sample", "watermark", "details", "decoder_input_details", "return_full_text", "adapter_id"),
    )
)

VARIANTS = [
    pytest.param({}, id="plain"),
    pytest.param({"details": True}, id="details"),
    pytest.param({"details": True, "top_n_tokens": 2}, id="top tokens"),
    pytest.param({"details": True, "seed": 3, "do_sample": True}, id="seed"),
    pytest.param({"details": True, "stop": ["new"]}, id="stop"),
    pytest.param({"return_full_text": True}, id="full text"),
    pytest.param({"return_full_text": False}, id="no full text"),
    pytest.param({"details": True, "max_new_tokens": None}, id="no limit"),
    pytest.param({"truncate": 2}, id="truncate"),
]


async def from_engine(
    client: httpx.AsyncClient, engine: Running, path: str, body: dict[str, Any]
) -> httpx.Response:
    """The engine's own answer. Unlike us it takes no nulls."""
    given = {name: value for name, value in body["parameters"].items() if value is not None}
    return await client.post(engine.url + path, json={**body, "parameters": given})


@pytest.mark.parametrize("given", VARIANTS)
@pytest.mark.parametrize(
    ("path", "stream"), [("/generate", False), ("/generate_stream", True), ("/", False), ("/", True)]
)
async def test_body_is_byte_for_byte_the_engines_own(
    client: httpx.AsyncClient, fast_engine: Running, path: str, stream: bool, given: dict[str, Any]
) -> None:
    body = {"inputs": "你好 brave new world", "stream": stream, "parameters": {"max_new_tokens": 7, **given}}

    ours = await client.post(path, json=body)
    theirs = await from_engine(client, fast_engine, path, body)

    assert ours.status_code == theirs.status_code == 200
    assert ours.content == theirs.content
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    assert set(theirs.headers) - {"date", "server"} <= set(ours.headers)


async def test_answer_without_a_limit_is_not_cut_by_one_of_ours(client: httpx.AsyncClient) -> None:
    words = " ".join(f"w{number}" for number in range(600))

    answer = await client.post("/generate", json={"inputs": words, "parameters": {"details": True}})

    assert answer.json()["details"]["finish_reason"] == "eos_token"
    assert answer.json()["generated_text"].endswith("w599")


def test_limit_that_the_operator_gave_the_model_counts(gateway: Any, fast_engine: Running) -> None:
    running = gateway({"models": [model(fast_engine.url, parameters={"max_new_tokens": 2})]})

    answers = [
        httpx.post(f"{running.url}/generate", json={"inputs": "a b c d", "parameters": given}).json()
        for given in ({}, {"max_new_tokens": 3})
    ]

    assert [answer["generated_text"] for answer in answers] == ["a b", "a b c"]


def test_seed_that_the_operator_gave_the_model_is_no_obstacle_to_best_of(
    gateway: Any, fast_engine: Running
) -> None:
    running = gateway({"models": [model(fast_engine.url, parameters={"seed": 42})]})
    parameters = {"best_of": 2, "do_sample": True, "max_new_tokens": 2}

    answers = [
        httpx.post(f"{running.url}/generate", json={"inputs": "a b", "parameters": given})
        for given in (parameters, {**parameters, "seed": 1})
    ]

    assert [answer.status_code for answer in answers] == [200, 422]


async def test_answer_is_sampled_only_when_there_are_no_parameters_at_all(client: httpx.AsyncClient) -> None:
    words = " ".join(f"w{number}" for number in range(50))

    async def texts(body: dict[str, Any]) -> set[str]:
        answers = [await client.post("/generate", json={"inputs": words, **body}) for _ in range(6)]
        return {answer.json()["generated_text"] for answer in answers}

    # The echo of a sampled answer begins at a random word.
    assert len(await texts({})) > 1
    assert await texts({"parameters": {}}) == {words}


async def test_headers_of_tgi_say_what_the_receipt_says(client: httpx.AsyncClient) -> None:
    response = await client.post("/generate", json={**HELLO, "inputs": "你好 world"})

    headers = response.headers
    assert headers["x-compute-characters"] == "8"
    assert headers["x-generated-tokens"] == "6"
    assert int(headers["x-prompt-tokens"]) > 0
    assert headers["x-gateway-model"] == "echo"
    assert float(headers["x-compute-time"]) == pytest.approx(float(headers["x-gateway-total-ms"]) / 1000)
    assert all(headers[name].isdigit() for name in TIMES)
    parts = sum(int(headers[name]) for name in ("x-validation-time", "x-queue-time", "x-inference-time"))
    assert parts <= int(headers["x-total-time"]) <= parts + 3  # each is rounded down


async def test_nulls_and_unknown_fields_are_as_good_as_left_out(client: httpx.AsyncClient) -> None:
    plain = await client.post("/", json=HELLO)
    parameters = {**NULLS, **HELLO["parameters"], "invented": 1}  # type: ignore[dict-item]

    nulls = await client.post("/", json={**HELLO, "stream": None, "parameters": parameters, "model": "x"})
    none = await client.post("/", json={"inputs": "a", "parameters": None})

    assert nulls.json() == plain.json()
    assert none.status_code == 200


async def test_generate_ignores_a_wish_to_stream(client: httpx.AsyncClient) -> None:
    response = await client.post("/generate", json={**HELLO, "stream": True})

    assert set(response.json()) == {"generated_text"}


async def test_best_of_gives_the_other_sequences_in_the_details(client: httpx.AsyncClient) -> None:
    parameters = {"best_of": 2, "do_sample": True, "max_new_tokens": 3, "details": True}

    [answer] = (await client.post("/", json={"inputs": "a b c", "parameters": parameters})).json()

    assert list(answer["details"])[:5] == ["finish_reason", "generated_tokens", "seed", "prefill", "tokens"]
    assert [len(one["tokens"]) for one in answer["details"]["best_of_sequences"]] == [3]


async def test_no_character_of_an_event_ends_its_line(client: httpx.AsyncClient) -> None:
    said = "one\u2028two\x85three\u2029four"
    async with client.stream("POST", "/generate_stream", json={"inputs": said, "parameters": {}}) as response:
        text = (await response.aread()).decode()

    lines = [line for line in text.splitlines() if line]  # at all that Unicode calls the end of a line
    assert all(line.startswith("data: {") for line in lines)
    assert json.loads(lines[-1].removeprefix("data: "))["generated_text"] == said


# ---------------------------------------------------------------- which model


@pytest.mark.parametrize(
    ("path", "headers", "chosen"),
    [
        ("/generate", {}, "echo"),
        ("/generate", {"x-gateway-model": "llama"}, "llama"),
        ("/generate", {"x-gateway-model": "tgi"}, "echo"),
        ("/", {"x-gateway-model": "dummy"}, "echo"),
        ("/models/llama/generate", {}, "llama"),
        ("/models/mirror/generate", {"x-gateway-model": "llama"}, "echo"),
        ("/models/llama", {}, "llama"),
        ("/models/llama/", {}, "llama"),
        ("/models/llama/invocations", {}, "llama"),
        ("/models/llama/generate_stream", {}, "llama"),
        ("/models/tgi/generate", {}, "echo"),
        ("/models/org/name:tag/generate", {}, "llama"),
    ],
)
def test_model_is_chosen_by_path_then_header_then_default(
    routed: Running, path: str, headers: dict[str, str], chosen: str
) -> None:
    response = httpx.post(routed.url + path, json=HELLO, headers=headers)

    assert (response.status_code, response.headers["x-gateway-model"]) == (200, chosen)


@pytest.fixture(scope="module")
def routed(fast_engine: Running, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A gateway with a name that holds a slash."""
    models = [
        model(fast_engine.url, aliases=["mirror"]),
        model(fast_engine.url, id="llama", family="llama3", aliases=["org/name:tag"]),
    ]
    running = start_gateway(tmp_path_factory.mktemp("routed"), {"models": models})
    yield running
    running.stop()


# ---------------------------------------------------------------- errors

JSON = {"content-type": "application/json"}
BAD = [
    pytest.param("POST", "/generate", b"{", JSON, 400, "validation", "not JSON", id="broken JSON"),
    pytest.param("POST", "/", b"", JSON, 400, "validation", "empty", id="empty"),
    pytest.param("POST", "/generate", b"{}", {}, 415, "validation", "application/json", id="content type"),
    pytest.param("POST", "/generate", b"[]", JSON, 422, "validation", "Input validation error: ", id="list"),
    pytest.param("POST", "/", b"{}", JSON, 422, "validation", "inputs is required", id="inputs missing"),
    pytest.param(
        "POST", "/tokenize", b'{"inputs":""}', JSON, 422, "validation", "non-empty", id="empty inputs"
    ),
    pytest.param(
        *("POST", "/generate_stream", b'{"inputs":"x","parameters":{"top_p":1.0}}', JSON),
        *(422, "validation", "Input validation error: parameters.top_p"),
        id="top_p of 1.0",
    ),
    pytest.param(
        *("POST", "/generate_stream", b'{"inputs":"x","parameters":{"best_of":2,"do_sample":true}}', JSON),
        *(422, "validation", "best_of"),
        id="best_of in a stream",
    ),
    pytest.param(
        *("POST", "/generate", b'{"inputs":"x","parameters":{"grammar":{"type":"regex","value":"a"}}}', JSON),
        *(422, "validation", "grammar is not supported"),
        id="the engine refuses",
    ),
    pytest.param(
        *("POST", "/generate_stream", json.dumps({"inputs": "word " * 5000}).encode(), JSON),
        *(422, "validation", "`inputs`"),
        id="too long for the engine",
    ),
    pytest.param("POST", "/", b"x" * 2_000_001, JSON, 413, "validation", "larger", id="too large"),
    pytest.param(
        "POST", "/models/nope", b'{"inputs":"x"}', JSON, 404, "model_not_found", "`nope`", id="model"
    ),
    pytest.param(
        "POST", "/models//generate", b'{"inputs":"x"}', JSON, 404, "model_not_found", "no model", id="no name"
    ),
    pytest.param(
        "GET", "/models/nope/info", b"", {}, 404, "model_not_found", "`nope`", id="info of no model"
    ),
    pytest.param("GET", "/generate", b"", {}, 405, "method_not_allowed", "POST", id="method"),
    pytest.param(
        "GET", "/models/echo/generate", b"", {}, 405, "method_not_allowed", "POST", id="method below"
    ),
    pytest.param("DELETE", "/", b"", {}, 405, "method_not_allowed", "GET", id="method at the root"),
    pytest.param("GET", "/generate/more", b"", {}, 404, "not_found", "nothing", id="path"),
]


@pytest.mark.parametrize(("method", "path", "content", "headers", "status", "kind", "words"), BAD)
async def test_every_refusal_is_two_strings_that_clients_know(
    client: httpx.AsyncClient,
    method: str,
    path: str,
    content: bytes,
    headers: dict[str, str],
    status: int,
    kind: str,
    words: str,
) -> None:
    response = await client.request(method, path, content=content, headers=headers)

    error = response.json()
    assert (response.status_code, error["error_type"]) == (status, kind)
    assert list(error) == ["error", "error_type"]
    assert words in error["error"]
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("error", "kind", "opening"),
    [
        (InvalidRequest("x"), "validation", "Input validation error: x."),
        (PayloadTooLarge("x"), "validation", "x."),
        (Overloaded("x", hint="y"), "overloaded", "Model is overloaded: x. y."),
        (WaitTimeout("x"), "overloaded", "Model is overloaded: x."),
        (ModelUnavailable("x"), "model_unavailable", "x."),
        (EngineError("x"), "generation", "Request failed during generation: x."),
        (Truncated("x"), "incomplete_generation", "Incomplete generation: x."),
        (EngineTimeout("x"), "engine_timeout", "x."),
        (Unauthorized("x"), "unauthorized", "x."),
    ],
)
def test_errors_have_tgis_words_where_it_has_any(error: GatewayError, kind: str, opening: str) -> None:
    assert error_body(error) == {"error": opening, "error_type": kind}


def test_missing_key_is_refused_in_the_same_shape(gateway: Any, fast_engine: Running) -> None:
    running = gateway({"models": [model(fast_engine.url)]}, api_key="secret")

    refused = [httpx.post(running.url + path, json=HELLO) for path in ("/", "/generate", "/models/echo")]
    keyed = httpx.post(running.url + "/", json=HELLO, headers={"authorization": "Bearer secret"})

    assert {(one.status_code, one.json()["error_type"]) for one in refused} == {(401, "unauthorized")}
    assert keyed.status_code == 200
    assert httpx.get(running.url + "/health").status_code == 200


# ---------------------------------------------------------------- tokens, limits, health


async def test_tokens_are_the_engines_own(client: httpx.AsyncClient, fast_engine: Running) -> None:
    body = {"inputs": "你好 world", "parameters": {}}

    ours = await client.post("/models/llama/tokenize", json=body)

    assert ours.content == (await from_engine(client, fast_engine, "/tokenize", body)).content


async def test_conversation_is_rendered_by_the_models_template_and_split(client: httpx.AsyncClient) -> None:
    parts = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]
    messages = [{"role": "user", "content": parts, "name": None}]
    body = {"model": "tgi", "messages": messages, "tools": None}

    answer = (await client.post("/chat_tokenize", json=body)).json()
    native = (
        await client.post("/v1/render", json={"messages": [{"role": "user", "content": "Hi there"}]})
    ).json()

    assert list(answer) == ["tokenize_response", "templated_text"]
    assert answer["templated_text"] == native["prompt"]
    assert "".join(token["text"] for token in answer["tokenize_response"]).endswith("assistant\n")
    assert len(answer["tokenize_response"]) == native["token_count"]


async def test_last_word_of_the_assistant_is_left_open(client: httpx.AsyncClient) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good"}]

    answer = (await client.post("/chat_tokenize", json={"model": "llama", "messages": messages})).json()

    assert answer["templated_text"].endswith("<|end_header_id|>\n\nGood")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "no images"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": [{}]}, "tools"),
    ],
)
async def test_conversation_that_cannot_be_rendered_is_refused(
    client: httpx.AsyncClient, body: dict[str, Any], words: str
) -> None:
    response = await client.post("/chat_tokenize", json=body)

    assert (response.status_code, response.json()["error_type"]) == (422, "validation")
    assert words in response.json()["error"]


async def test_info_is_the_engines_within_our_limits(client: httpx.AsyncClient, fast_engine: Running) -> None:
    theirs = fast_engine.get("/info").json()

    ours = (await client.get("/models/mirror/info")).json()

    assert list(ours) == list(theirs)
    assert {**ours, "max_concurrent_requests": 128} == theirs


@pytest.mark.parametrize("path", ["/", "/ping", "/health", "/models/echo", "/models/llama/health"])
async def test_health_is_a_200_wherever_clients_look(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 200
