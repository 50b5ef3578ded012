"""One suite for TGI's wire, run against both backends."""

from __future__ import annotations

import json
import math
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jsonschema
import pytest
from engine_process import DEADLINE_S, Engine, until

QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
TOKEN = {
    "type": "object",
    "required": ["id", "text", "logprob", "special"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "integer", "minimum": 0},
        "text": {"type": "string"},
        "logprob": {"type": ["number", "null"], "maximum": 0},
        "special": {"type": "boolean"},
    },
}
_END = {
    "finish_reason": {"enum": ["length", "eos_token", "stop_sequence"]},
    "generated_tokens": {"type": "integer", "minimum": 1},
    "seed": {"type": ["integer", "null"], "minimum": 0},
}
_DETAILS = {**_END, "prefill": {"const": []}, "tokens": {"type": "array", "items": TOKEN, "minItems": 1}}
_TOP_TOKENS = {"top_tokens": {"type": "array", "items": {"type": "array", "items": TOKEN}}}
_SEQUENCE = {"generated_text": {"type": "string"}, **_DETAILS}
ANSWER = {
    "type": "object",
    "required": ["generated_text", "details"],
    "additionalProperties": False,
    "properties": {
        "generated_text": {"type": "string"},
        "details": {
            "type": "object",
            "required": list(_DETAILS),
            "additionalProperties": False,
            "properties": {
                **_DETAILS,
                **_TOP_TOKENS,
                "best_of_sequences": {
                    "type": "array",
                    "items": {"type": "object", "required": list(_SEQUENCE), "properties": _SEQUENCE},
                },
            },
        },
    },
}
_STREAM_END = {**_END, "input_length": {"type": "integer", "minimum": 1}}
EVENT = {
    "type": "object",
    "required": ["index", "token", "generated_text", "details"],
    "additionalProperties": False,
    "properties": {
        "index": {"type": "integer", "minimum": 1},
        "token": TOKEN,
        "top_tokens": {"type": "array", "items": TOKEN},
        "generated_text": {"type": ["string", "null"]},
        "details": {
            "anyOf": [
                {"type": "null"},
                {
                    "type": "object",
                    "required": list(_STREAM_END),
                    "additionalProperties": False,
                    "properties": _STREAM_END,
                },
            ]
        },
    },
}
INFO_KEYS = {
    *("model_id", "model_sha", "model_pipeline_tag", "max_concurrent_requests", "max_best_of"),
    *("max_stop_sequences", "max_input_tokens", "max_total_tokens", "validation_workers"),
    *("max_client_batch_size", "router", "version", "sha", "docker_label"),
}
LENGTH_RULE = "`inputs` tokens + `max_new_tokens` must be <="
BROKEN_RULES = [
    ({"temperature": 0}, "`temperature` must be strictly positive"),
    ({"temperature": -1.5}, "`temperature` must be strictly positive"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 1}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"top_k": -1}, "`top_k` must be strictly positive"),
    ({"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": list("abcde")}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 255. Given: 0"),
    ({"truncate": 256}, "`truncate` must be strictly positive and less than 255. Given: 256"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"best_of": 3, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3"),
    ({"watermark": True}, "`watermark` is not supported by this engine"),
    (
        {"max_new_tokens": 300},
        f"{LENGTH_RULE} 256. Given: 1 `inputs` tokens and 300 `max_new_tokens`",
    ),
]
PLAIN_ONLY = [
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
    ({"decoder_input_details": True}, "`decoder_input_details` is not supported by this engine"),
]
STREAM_ONLY = [
    ({"best_of": 2, "do_sample": True}, "`best_of` != 1 is not allowed when streaming tokens"),
    (
        {"decoder_input_details": True},
        "`decoder_input_details` == true is not allowed when streaming tokens",
    ),
]
JSON = {"content-type": "application/json"}


def test_an_answer_with_details_has_tgis_shape(engine: Engine) -> None:
    body = engine.generate(QUESTION, max_new_tokens=8)
    jsonschema.validate(body, ANSWER)
    assert body["details"]["generated_tokens"] == 8
    assert body["details"]["seed"] is None
    spoken = [token["text"] for token in body["details"]["tokens"] if not token["special"]]
    assert "".join(spoken) == body["generated_text"]


def test_an_answer_without_details_is_the_text_alone(engine: Engine) -> None:
    answer = engine.post("/generate", {"inputs": QUESTION, "parameters": {"max_new_tokens": 3}})
    assert list(answer.json()) == ["generated_text"]


def test_headers_tell_where_the_time_went(engine: Engine) -> None:
    headers = engine.post("/generate", {"inputs": QUESTION, "parameters": {"max_new_tokens": 4}}).headers
    whole_ms = ["total", "validation", "queue", "inference"]
    times_ms = {name: int(headers[f"x-{name}-time"]) for name in whole_ms}
    assert times_ms["total"] <= float(headers["x-compute-time"]) * 1000 < times_ms["total"] + 1
    parts_ms = times_ms["validation"] + times_ms["queue"] + times_ms["inference"]
    assert times_ms["total"] - 3 <= parts_ms <= times_ms["total"]
    assert int(headers["x-generated-tokens"]) == 4
    assert int(headers["x-prompt-tokens"]) == len(engine.post("/tokenize", {"inputs": QUESTION}).json())
    assert int(headers["x-compute-characters"]) == len(QUESTION)
    assert headers["x-time-per-token"].isdigit()
    assert headers["x-compute-type"]


def test_a_stream_is_tgis_bytes(engine: Engine) -> None:
    body = {"inputs": QUESTION, "parameters": {"max_new_tokens": 6, "details": True}}
    answer = engine.post("/generate_stream", body)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    frames = answer.content.split(b"\n\n")
    assert frames.pop() == b""
    events = []
    for frame in frames:
        assert frame.startswith(b'data: {"index":')
        event = json.loads(frame[6:])
        assert frame[6:].decode() == json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        assert list(event) == ["index", "token", "generated_text", "details"]
        events.append(event)
    assert [event["index"] for event in events] == [1, 2, 3, 4, 5, 6]


def test_stream_events_join_to_the_generated_text(engine: Engine) -> None:
    events = engine.stream(QUESTION, max_new_tokens=8)
    for event in events:
        jsonschema.validate(event, EVENT)
    *earlier, last = events
    assert all(event["generated_text"] is None and event["details"] is None for event in earlier)
    spoken = [event["token"]["text"] for event in events if not event["token"]["special"]]
    assert "".join(spoken) == last["generated_text"]
    assert last["details"]["generated_tokens"] == last["index"] == 8
    assert last["details"]["finish_reason"] == "length"
    assert last["details"]["input_length"] == len(engine.post("/tokenize", {"inputs": QUESTION}).json())


def test_stream_details_come_only_when_asked_for(engine: Engine) -> None:
    last = engine.stream(QUESTION, max_new_tokens=2, details=False)[-1]
    assert last["generated_text"]
    assert last["details"] is None


@pytest.mark.parametrize(("parameters", "sentence"), BROKEN_RULES + PLAIN_ONLY)
def test_a_broken_rule_is_a_422_in_tgis_words(
    engine: Engine, parameters: dict[str, Any], sentence: str
) -> None:
    answer = engine.post("/generate", {"inputs": "hello", "parameters": parameters})
    assert answer.status_code == 422
    assert answer.json() == {"error": f"Input validation error: {sentence}", "error_type": "validation"}


@pytest.mark.parametrize(("parameters", "sentence"), BROKEN_RULES + STREAM_ONLY)
def test_a_broken_rule_in_a_stream_is_one_event(
    engine: Engine, parameters: dict[str, Any], sentence: str
) -> None:
    answer = engine.post("/generate_stream", {"inputs": "hello", "parameters": parameters})
    assert answer.status_code == 200
    expected = {"error": f"Input validation error: {sentence}", "error_type": "validation"}
    assert answer.text == f"data: {json.dumps(expected, separators=(',', ':'))}\n\n"


@pytest.mark.parametrize("path", ["/generate", "/tokenize"])
def test_empty_inputs_are_refused(engine: Engine, path: str) -> None:
    answer = engine.post(path, {"inputs": ""})
    assert answer.status_code == 422
    assert answer.json()["error"] == "Input validation error: `inputs` cannot be empty"


def test_a_prompt_over_the_limit_is_refused_with_its_length(engine: Engine) -> None:
    long = "word " * 400
    length = len(engine.post("/tokenize", {"inputs": long}).json())
    answer = engine.post("/generate", {"inputs": long})
    assert answer.status_code == 422
    sentence = f"`inputs` must have less than 255 tokens. Given: {length}"
    assert answer.json()["error"] == f"Input validation error: {sentence}"


def test_truncate_keeps_the_last_tokens(engine: Engine) -> None:
    body = {"inputs": "word " * 400, "parameters": {"truncate": 20, "max_new_tokens": 2}}
    answer = engine.post("/generate", body)
    assert answer.status_code == 200
    assert answer.headers["x-prompt-tokens"] == "20"


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", JSON, 400),
        (b"", JSON, 400),
        (b'{"inputs": "a"}', {"content-type": "text/plain"}, 415),
        (b'{"inputs": "a"}', {}, 415),
        (b"{}", JSON, 422),
        (b"[]", JSON, 422),
        (b'{"inputs": 1}', JSON, 422),
        (b'{"inputs": "a", "parameters": {"stop": null}}', JSON, 422),
        (b'{"inputs": "a", "parameters": {"stop": "x"}}', JSON, 422),
        (b'{"inputs": "a", "parameters": {"do_sample": null}}', JSON, 422),
        (b'{"inputs": "a", "parameters": {"top_k": 1.5}}', JSON, 422),
        (b'{"inputs": "a", "parameters": {"top_k": "1"}}', JSON, 422),
        (b'{"inputs": "a", "parameters": {"max_new_tokens": -1}}', JSON, 422),
        (b'{"inputs": "a", "parameters": {"temperature": "hot"}}', JSON, 422),
        (b'{"inputs": "a", "parameters": {"grammar": {"type": "xml", "value": 1}}}', JSON, 422),
        (b'{"inputs": "' + b"a" * 2_000_000 + b'"}', JSON, 413),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
def test_what_cannot_be_parsed_is_refused_in_plain_text(
    echo_engine: Engine, path: str, content: bytes, headers: dict[str, str], status: int
) -> None:
    answer = echo_engine.http.post(echo_engine.url + path, content=content, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text


def test_a_wrong_type_is_named_with_its_path(echo_engine: Engine) -> None:
    answer = echo_engine.post("/generate", {"inputs": "a", "parameters": {"top_k": "x"}})
    assert answer.text.startswith(
        "Failed to deserialize the JSON body into the target type: parameters.top_k: "
    )


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nope", 404), ("GET", "/generate", 405)])
def test_wrong_routes_and_methods_have_empty_bodies(
    echo_engine: Engine, method: str, path: str, status: int
) -> None:
    answer = echo_engine.http.request(method, echo_engine.url + path)
    assert (answer.status_code, answer.content) == (status, b"")


def test_the_compat_route_answers_a_list_with_the_prompt_in_front(engine: Engine) -> None:
    parameters = {"max_new_tokens": 3, "details": True}
    answer = engine.post("/", {"inputs": "Hello there", "parameters": parameters, "stream": False})
    (body,) = answer.json()
    jsonschema.validate(body, ANSWER)
    assert body["generated_text"].startswith("Hello there")
    spoken = "".join(token["text"] for token in body["details"]["tokens"] if not token["special"])
    assert body["generated_text"] == "Hello there" + spoken
    parameters = {**parameters, "return_full_text": False}
    bare = engine.post("/", {"inputs": "Hello there", "parameters": parameters})
    assert bare.json()[0]["generated_text"] == spoken


def test_the_compat_route_streams_when_asked(engine: Engine) -> None:
    answer = engine.post("/", {"inputs": "Hello", "parameters": {"max_new_tokens": 2}, "stream": True})
    assert answer.headers["content-type"] == "text/event-stream"
    assert json.loads(answer.text.split("\n\n")[-2][6:])["generated_text"].startswith("Hello")


def test_explicit_nulls_of_an_old_client_are_accepted(engine: Engine) -> None:
    names = ["temperature", "top_k", "top_p", "truncate", "typical_p", "best_of", "seed", "grammar"]
    names += ["repetition_penalty", "frequency_penalty", "return_full_text", "top_n_tokens", "adapter_id"]
    parameters = {**dict.fromkeys(names), "max_new_tokens": 2, "unknown": 1}
    assert engine.post("/generate", {"inputs": "Hello", "parameters": parameters}).status_code == 200


def test_a_stop_string_ends_the_text_and_stays_in_it(engine: Engine) -> None:
    body = engine.generate(QUESTION, max_new_tokens=30, stop=["nowhere", "capital"])
    assert body["details"]["finish_reason"] == "stop_sequence"
    assert body["generated_text"].endswith("capital")
    events = engine.stream(QUESTION, max_new_tokens=30, stop=["capital of"])
    assert events[-1]["generated_text"].endswith("capital of")
    assert "".join(event["token"]["text"] for event in events) == events[-1]["generated_text"]
    assert events[-1]["index"] == events[-1]["details"]["generated_tokens"] == len(events)


def test_a_seed_is_reported_and_repeats_its_text(engine: Engine) -> None:
    first, second = (engine.generate(QUESTION, max_new_tokens=6, temperature=0.9, seed=11) for _ in range(2))
    assert first["details"]["seed"] == 11
    assert first["generated_text"] == second["generated_text"]


@pytest.mark.parametrize("body", [{"inputs": "a b c"}, {"inputs": "a b c", "parameters": {"top_k": 5}}])
def test_sampling_without_a_seed_draws_one(echo_engine: Engine, body: dict[str, Any]) -> None:
    events = [
        json.loads(frame[6:])
        for frame in echo_engine.post("/generate_stream", body).text.split("\n\n")
        if frame
    ]
    assert events[-1]["generated_text"]
    details = {"max_new_tokens": 2, "do_sample": True}
    assert echo_engine.generate("a b c", **details)["details"]["seed"] > 0


def test_best_of_lists_the_other_sequence(engine: Engine) -> None:
    details = engine.generate(QUESTION, max_new_tokens=4, do_sample=True, best_of=2)["details"]
    jsonschema.validate({"generated_text": "", "details": details}, ANSWER)
    (other,) = details["best_of_sequences"]
    assert other["seed"] != details["seed"]

    def mean(sequence: dict[str, Any]) -> float:
        return sum(token["logprob"] or 0 for token in sequence["tokens"]) / len(sequence["tokens"])

    assert mean(details) >= mean(other) or math.isclose(mean(details), mean(other))


def test_top_tokens_come_when_asked_for(engine: Engine) -> None:
    body = engine.generate(QUESTION, max_new_tokens=3, top_n_tokens=2)
    jsonschema.validate(body, ANSWER)
    assert [tops[0]["id"] for tops in body["details"]["top_tokens"]] == [
        token["id"] for token in body["details"]["tokens"]
    ]
    event = engine.stream(QUESTION, max_new_tokens=2, top_n_tokens=2)[0]
    assert list(event) == ["index", "token", "top_tokens", "generated_text", "details"]


@pytest.mark.parametrize("text", ["Hello, world!", "你好，世界 🙂", "a\n\n b\t", QUESTION])
def test_token_offsets_cut_the_text(engine: Engine, text: str) -> None:
    tokens = engine.post("/tokenize", {"inputs": text}).json()
    assert all(token["text"] == text[token["start"] : token["stop"]] for token in tokens)
    covered = {at for token in tokens for at in range(token["start"], token["stop"])}
    assert covered == set(range(len(text)))


def test_info_health_and_models(engine: Engine) -> None:
    info = engine.get("/info").json()
    assert set(info) == INFO_KEYS
    assert (info["model_id"], info["max_input_tokens"], info["max_total_tokens"]) == ("tested", 255, 256)
    for path in ("/health", "/ping", "/"):
        answer = engine.get(path)
        assert (answer.status_code, answer.content) == (200, b"")
    (entry,) = engine.get("/v1/models").json()["data"]
    assert entry == {"id": "tested", "object": "model", "created": 0, "owned_by": "tested"}


def test_metrics_count_under_tgis_names(engine: Engine) -> None:
    names = ["tgi_request_count", "tgi_request_success", "tgi_request_duration_count"]
    before = [engine.metric(name) for name in names]
    refused = engine.metric('tgi_request_failure{err="validation"}')
    engine.generate("Hello", max_new_tokens=1)
    engine.post("/generate", {"inputs": "Hello", "parameters": {"top_k": 0}})
    grown = [engine.metric(name) - was for name, was in zip(names, before, strict=True)]
    assert grown == [2, 1, 1]
    assert engine.metric('tgi_request_failure{err="validation"}') == refused + 1


def test_more_streams_than_slots_all_finish(engine: Engine) -> None:
    def one(number: int) -> list[dict[str, Any]]:
        return engine.stream(f"Count: {number}", max_new_tokens=12, do_sample=True)

    with ThreadPoolExecutor(6) as pool:
        for events in pool.map(one, range(6)):
            last = events[-1]
            spoken = [event["token"]["text"] for event in events if not event["token"]["special"]]
            assert "".join(spoken) == last["generated_text"]
    assert engine.metric("tgi_batch_current_size") == 0
    assert engine.metric("tgi_queue_size") == 0


def _busy(engine: Engine) -> tuple[float, float]:
    return engine.metric("tgi_batch_current_size"), engine.metric("tgi_queue_size")


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_a_client_that_leaves_frees_its_slot_running_or_queued(engine: Engine, path: str) -> None:
    until(lambda: _busy(engine) == (0, 0))
    dropped = engine.metric('tgi_request_failure{err="dropped"}')
    body = {"inputs": "1 1 1 1 1 1 1 1", "parameters": {"max_new_tokens": 240}}  # goes on and on
    raw = json.dumps(body).encode()
    fields = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}"
    head = f"POST {path} HTTP/1.1\r\n{fields}\r\n\r\n"
    clients = [_connect(engine) for _ in range(5)]
    for client in clients:
        client.sendall(head.encode() + raw)
    until(lambda: _busy(engine) == (2, 3))
    for client in clients:
        client.close()
    until(lambda: _busy(engine) == (0, 0), timeout_s=1.5)
    assert engine.metric('tgi_request_failure{err="dropped"}') == dropped + 5
    assert engine.post("/generate", {"inputs": "Hi", "parameters": {"max_new_tokens": 1}}).status_code == 200


def _connect(engine: Engine) -> socket.socket:
    url = httpx.URL(engine.url)
    return socket.create_connection((url.host, url.port), timeout=DEADLINE_S)
