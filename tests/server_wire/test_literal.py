"""The answers of the busiest routes, word for word: this does not come from any other program."""

from __future__ import annotations

from contextlib import closing

from server_wire.cases import BODY, ROUTES, STREAM
from server_wire.conftest import Pair
from server_wire.raw import DATE, Answer, connected, posted, read

RAW = {"scenario": "raw"}


def asked(pair: Pair, sent: bytes) -> Answer:
    with closing(connected(pair.served.url)) as client:
        client.sendall(sent)
        return read(client, 1)[0]


def names(answer: Answer) -> set[str]:
    assert len({name for name, _ in answer.headers}) == len(answer.headers)
    date = answer.header("date")
    assert date
    assert DATE.fullmatch(date)
    return {name for name, _ in answer.headers}


def test_tgi_answer(pair: Pair) -> None:
    answer = asked(pair, ROUTES["tgi"])
    receipt = {f"x-gateway-{part}-ms" for part in ("queue", "load", "prefill", "decode", "gateway", "total")}
    times = {"x-compute-time", "x-time-per-token"} | {
        f"x-{part}-time" for part in ("total", "validation", "queue", "inference")
    }
    counts = {"x-compute-characters", "x-prompt-tokens", "x-generated-tokens"}
    plain = {"date", "content-type", "content-length", "x-request-id", "x-compute-type", "x-gateway-model"}
    assert names(answer) == receipt | times | counts | plain
    assert answer.body == b'{"generated_text":"one two three one two"}'
    assert answer.header("content-type") == "application/json"
    assert answer.header("x-compute-type") == "gateway"
    assert answer.header("x-gateway-model") == "echo"
    assert answer.header("x-request-id") == "tgi"
    assert [answer.header(name) for name in sorted(counts)] == ["13", "5", "3"]
    parts = [float(answer.header(f"x-gateway-{part}-ms") or "nan") for part in ("queue", "load", "prefill")]
    parts += [float(answer.header(f"x-gateway-{part}-ms") or "nan") for part in ("decode", "gateway")]
    assert abs(sum(parts) - float(answer.header("x-gateway-total-ms") or "nan")) < 0.01


def test_tgi_stream(pair: Pair) -> None:
    answer = asked(pair, ROUTES["tgi stream"])
    assert names(answer) == {
        "date",
        "content-type",
        "cache-control",
        "x-accel-buffering",
        "x-compute-type",
        "x-compute-characters",
        "x-gateway-model",
        "x-request-id",
        "transfer-encoding",
    }
    assert answer.header("content-type") == "text/event-stream"
    assert answer.header("cache-control") == "no-cache"
    tokens = (
        (1, 32795, "one", -0.95),
        (2, 10640, " two", -0.4),
        (3, 33815, " three", -0.15),
        (4, 34875, " one", -0.75),
        (5, 10640, " two", -0.4),
    )
    events = ""
    for index, number, text, logprob in tokens:
        said = '"one two three one two"' if index == 5 else "null"
        events += (
            f'data: {{"index":{index},"token":{{"id":{number},"text":"{text}","logprob":{logprob},'
            f'"special":false}},"generated_text":{said},"details":null}}\n\n'
        )
    assert answer.body.decode() == events


def test_native_answer(pair: Pair) -> None:
    answer = asked(pair, posted("/v1/generate", {**BODY, **RAW}, "x-request-id: mine"))
    assert answer.header("content-type") == "application/json"
    assert answer.header("x-request-id") == "mine"
    said = answer.json
    receipt = said.pop("receipt")
    assert said == {
        "model_id": "echo",
        "generated_text": "one two three one two",
        "finish_reason": "length",
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
        "request_id": "mine",
    }
    assert list(receipt) == ["queue_ms", "load_ms", "prefill_ms", "decode_ms", "gateway_ms", "total_ms"]
    assert abs(sum([*receipt.values()][:-1]) - receipt["total_ms"]) < 0.01


def test_native_stream(pair: Pair) -> None:
    answer = asked(pair, posted("/v1/generate", {**STREAM, **RAW}, "x-request-id: mine"))
    assert answer.header("content-type") == "text/event-stream; charset=utf-8"
    *tokens, done = answer.body.decode().removesuffix("\n\n").split("\n\n")
    assert tokens == [
        'event: token\ndata: {"index":1,"id":32795,"text":"one","logprob":-0.95}',
        'event: token\ndata: {"index":2,"id":10640,"text":" two","logprob":-0.4}',
        'event: token\ndata: {"index":3,"id":33815,"text":" three","logprob":-0.15}',
        'event: token\ndata: {"index":4,"id":34875,"text":" one","logprob":-0.75}',
        'event: token\ndata: {"index":5,"id":10640,"text":" two","logprob":-0.4}',
    ]
    assert done.startswith('event: done\ndata: {"model_id":"echo","generated_text":"one two three one two",')


def test_refusal(pair: Pair) -> None:
    answer = asked(pair, posted("/v1/generate", {"inputs": 5}, "x-request-id: mine"))
    assert answer.status == 422
    assert names(answer) == {"date", "content-type", "content-length", "x-request-id", "x-should-retry"}
    said = answer.json["error"]
    assert (said["type"], said["field"], said["request_id"]) == ("validation", "inputs", "mine")
