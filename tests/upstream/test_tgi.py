from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.errors import EngineError, EngineTimeout, GatewayError, InvalidRequest, ModelUnavailable
from gateway.schemas import Completed, Prompt, Token, TokenSpan
from gateway.upstream import ENGINES
from gateway.upstream.base import EngineClient, SuspectEngineError, Truncated
from gateway.upstream.tgi import TgiEngine
from gateway.upstream.transport import open_client

DEADLINE_S = 5.0
DETAILS = {"finish_reason": "eos_token", "generated_tokens": 3, "seed": 7, "input_length": 9}


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def token(text: str, index: int = 1, **more: Any) -> dict[str, Any]:
    one = {"id": 100 + index, "text": text, "logprob": -0.5, "special": False} | more
    return {"index": index, "token": one, "generated_text": None, "details": None}


def last(text: str, whole: str, details: Any = DETAILS, **more: Any) -> dict[str, Any]:
    return token(text, 3, **more) | {"generated_text": whole, "details": details}


HI = [token("Hello", 1), token(" wor", 2), last("<|im_end|>", "Hello wor", special=True)]
WHOLE = ["STREAM", *HI, "END"]


@pytest.mark.parametrize("prefix", [b"data: ", b"data:"], ids=["a space", "no space"])
@pytest.mark.parametrize("cut", [1, 7, 10_000], ids=["byte by byte", "sevens", "at once"])
async def test_both_framings_arrive_whole_however_the_network_cuts_them(
    serve: Any, ask: Any, prefix: bytes, cut: int
) -> None:
    parts = [token("你"), token("", 2, logprob=None), last("好🙂", "你好🙂")]
    body = b"".join(prefix + json.dumps(part, ensure_ascii=False).encode() + b"\n\n" for part in parts)
    steps = ["STREAM", *(chunk(body[at : at + cut]) for at in range(0, len(body), cut)), "END"]
    async with serve(steps) as engine:
        assert await ask.collect(engine.url) == [
            Token("你", 101, -0.5, False),
            Token("", 102, None, False),
            Token("好🙂", 103, -0.5, False, last=True),
            Completed("你好🙂", "eos_token", 3, 9, 7, DETAILS),
        ]


async def test_special_tokens_are_marked_and_handed_on(serve: Any, ask: Any) -> None:
    async with serve(WHOLE) as engine:
        pieces = await ask.collect(engine.url)
    assert [piece.special for piece in pieces if isinstance(piece, Token)] == [False, False, True]


async def test_a_collected_answer_is_the_completed_alone(serve: Any, ask: Any) -> None:
    async with serve(WHOLE) as engine:
        assert await ask.collect(engine.url, tokens=False) == [
            Completed("Hello wor", "eos_token", 3, 9, 7, DETAILS)
        ]


async def test_a_collected_answer_ignores_what_a_token_says_about_itself(serve: Any, ask: Any) -> None:
    tricky = token('"generated_text":"no"')
    async with serve(["STREAM", tricky, last('"generated_text":null', "yes"), "END"]) as engine:
        [completed] = await ask.collect(engine.url, tokens=False)
    assert isinstance(completed, Completed)
    assert completed.text == "yes"


async def test_an_answer_of_one_token_is_a_token_and_the_end(serve: Any, ask: Any) -> None:
    async with serve(["STREAM", last("Yes", "Yes"), "END"]) as engine:
        pieces = await ask.collect(engine.url)
    assert [type(piece) for piece in pieces] == [Token, Completed]


async def test_entering_waits_for_the_first_token_and_for_no_more(serve: Any, ask: Any) -> None:
    first, rest = asyncio.Event(), asyncio.Event()
    steps = ["STREAM", "KEEP-ALIVE", first, HI[0], rest, HI[2], "END"]
    async with serve(steps) as engine:
        stream = ask.stream(engine.url)
        entering = asyncio.create_task(stream.__aenter__())
        async with asyncio.timeout(DEADLINE_S):
            await engine.asked.wait()
            done, _ = await asyncio.wait({entering}, timeout=0.05)
            assert not done
            first.set()
            pieces = await entering
            assert await anext(pieces) == Token("Hello", 101, -0.5, False)
            rest.set()
            assert len([piece async for piece in pieces]) == 2
            await stream.__aexit__(None, None, None)


async def test_a_connection_is_used_again_after_a_whole_answer(serve: Any, ask: Any) -> None:
    async with serve(WHOLE, ["STREAM", *HI, "END"], WHOLE) as engine:
        for _ in range(3):
            assert len(await ask.collect(engine.url)) == 4
        assert engine.connections == 1


async def test_a_connection_that_the_engine_closed_is_not_used_again(serve: Any, ask: Any) -> None:
    async with serve([*WHOLE, "CLOSE"], WHOLE) as engine:
        await ask.collect(engine.url)
        async with asyncio.timeout(DEADLINE_S):
            await engine.left.wait()
        assert len(await ask.collect(engine.url)) == 4
        assert engine.connections == 2


async def test_a_body_that_does_not_end_after_its_last_event_holds_nobody_up(serve: Any, ask: Any) -> None:
    async with serve(["STREAM", *HI, "HOLD"]) as engine, asyncio.timeout(DEADLINE_S):
        assert len(await ask.collect(engine.url)) == 4
        await engine.left.wait()


@pytest.mark.parametrize(
    ("details", "parameters", "whole", "expected"),
    [
        (None, {}, "abc", Completed("abc", "eos_token", 2, None, None)),
        (None, {"max_new_tokens": 2}, "abc", Completed("abc", "length", 2, None, None)),
        (None, {"stop": ["c"]}, "abc", Completed("abc", "stop_sequence", 2, None, None)),
        (None, {}, "ab<|im_end|>", Completed("ab", "eos_token", 2, None, None)),
        (
            {"finish_reason": "length", "generated_tokens": 2, "seed": None},
            {},
            "abc",
            Completed(
                "abc",
                "length",
                2,
                None,
                None,
                {"finish_reason": "length", "generated_tokens": 2, "seed": None},
            ),
        ),
    ],
    ids=["none", "none, at the limit", "none, own stop", "none, family stop", "without input_length"],
)
async def test_an_engine_that_gives_few_details_is_understood(
    serve: Any, ask: Any, details: Any, parameters: dict[str, object], whole: str, expected: Completed
) -> None:
    async with serve(["STREAM", token("a"), last("bc", whole, details), "END"]) as engine:
        assert (await ask.collect(engine.url, parameters=parameters))[-1] == expected


@pytest.mark.parametrize(
    ("parameters", "family", "sent"),
    [
        ({}, (), {"details": True}),
        ({"temperature": None, "top_p": 0.9, "details": False}, (), {"top_p": 0.9, "details": True}),
        ({"stop": ["a"]}, ("X", "Y"), {"stop": ["a", "X", "Y"], "details": True}),
        ({"stop": ["a", "b", "c"]}, ("X", "Y"), {"stop": ["a", "b", "c", "X"], "details": True}),
        ({"stop": ["a", "b", "c", "d"]}, ("X",), {"stop": ["a", "b", "c", "d"], "details": True}),
        ({"stop": ["X"]}, ("X",), {"stop": ["X"], "details": True}),
        ({"stop": []}, ("X",), {"stop": ["X"], "details": True}),
        ({"stop": []}, (), {"stop": [], "details": True}),
    ],
)
async def test_only_what_is_set_is_sent_and_stops_keep_to_the_limit(
    serve: Any,
    ask: Any,
    parameters: dict[str, object],
    family: tuple[str, ...],
    sent: dict[str, object],
) -> None:
    async with serve(WHOLE) as engine:
        await ask.collect(engine.url + "/", prompt=Prompt("你好", family), parameters=parameters)
    path, headers, body = engine.requests[0]
    assert path == "/generate_stream"
    assert headers["content-type"] == "application/json"
    assert headers["accept-encoding"] == "identity"
    assert body == {"inputs": "你好", "parameters": sent}


@pytest.mark.parametrize(
    ("prompt", "parameters"),
    [(Prompt("\ud800"), {}), (Prompt("x"), {"temperature": float("nan")})],
    ids=["half a character", "not a number"],
)
async def test_what_json_cannot_hold_is_refused_and_not_sent(
    serve: Any, ask: Any, prompt: Prompt, parameters: dict[str, object]
) -> None:
    async with serve() as engine:
        with pytest.raises(InvalidRequest):
            await ask.collect(engine.url, prompt=prompt, parameters=parameters)
        assert engine.connections == 0


@pytest.mark.parametrize(
    ("own", "whole", "final", "reason", "expected"),
    [
        ([], "Hi<|im_end|>", "<|im_end|>", "stop_sequence", ("Hi", "eos_token")),
        ([], "Hi", "<|im_end|>", "stop_sequence", ("Hi", "eos_token")),
        (["."], "Hi.", ".", "stop_sequence", ("Hi.", "stop_sequence")),
        (["<|im_end|>"], "Hi<|im_end|>", "<|im_end|>", "stop_sequence", ("Hi<|im_end|>", "stop_sequence")),
        (["."], "Hi<|im_end|>", "<|im_end|>", "stop_sequence", ("Hi", "eos_token")),
        ([], "Hi<|im_end|>", "<|im_end|>", "length", ("Hi<|im_end|>", "length")),
        ([], "Hi", "<|im_end|>", "eos_token", ("Hi", "eos_token")),
        ([], "Hi", "Hi", "something_new", ("Hi", "eos_token")),
    ],
)
@pytest.mark.parametrize("plain", [False, True], ids=["streamed", "plain"])
async def test_the_family_stop_ends_the_turn_and_the_users_own_stays(
    serve: Any,
    ask: Any,
    own: list[str],
    whole: str,
    final: str,
    reason: str,
    expected: tuple[str, str],
    plain: bool,
) -> None:
    details = {"finish_reason": reason, "generated_tokens": 3, "seed": None}
    body = {"generated_text": whole, "details": {**details, "prefill": [], "tokens": [token(final)["token"]]}}
    script = [("200 OK", body)] if plain else ["STREAM", last(final, whole, details), "END"]
    async with serve(script) as engine:
        if plain:
            completed: Any = await ask.generate(engine.url, {"stop": own})
        else:
            completed = (await ask.collect(engine.url, parameters={"stop": own}))[-1]
    assert (completed.text, completed.finish_reason) == expected


@pytest.mark.parametrize(
    ("prefill", "extra", "prompt_tokens"),
    [([{"id": 1}, {"id": 2}], "", 2), ([], "x-prompt-tokens: 17\r\n", 17), ([], "", None)],
)
async def test_a_plain_answer_keeps_its_details(
    serve: Any, ask: Any, prefill: list[Any], extra: str, prompt_tokens: int | None
) -> None:
    details = {
        "finish_reason": "length",
        "generated_tokens": 2,
        "seed": 5,
        "prefill": prefill,
        "tokens": [token("a")["token"], token("b")["token"]],
        "best_of_sequences": [{"generated_text": "cd"}],
    }
    body = {"generated_text": "ab", "details": details}
    async with serve([("200 OK", body, "application/json", extra)]) as engine:
        completed = await ask.generate(engine.url, {"best_of": 2})
    assert completed == Completed("ab", "length", 2, prompt_tokens, 5, details)
    path, _, sent = engine.requests[0]
    assert path == "/generate"
    assert sent["parameters"] == {"best_of": 2, "stop": ["<|im_end|>"], "details": True}


@pytest.mark.parametrize(
    ("response", "expected", "words"),
    [
        ([("422 U", {"error": "`top_k` is", "error_type": "validation"})], InvalidRequest, "top_k"),
        ([("424 F", {"error": "CUDA", "error_type": "generation"})], SuspectEngineError, "CUDA"),
        ([("200 OK", b"{}")], EngineError, "understood"),
        ([("200 OK", b"[]")], EngineError, "understood"),
        ([("200 OK", b"<html>", "text/html")], EngineError, "understood"),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", "CLOSE"], SuspectEngineError, "truncated"),
        (["HOLD"], EngineTimeout, "total clock"),
    ],
)
async def test_a_plain_request_fails_with_the_reason(
    serve: Any, ask: Any, response: list[Any], expected: type[GatewayError], words: str
) -> None:
    async with serve(response) as engine:
        with pytest.raises(expected, match=words):
            await ask.generate(engine.url, {}, limits={"total_s": 0.5, "first_token_s": 0.01})


@pytest.mark.parametrize(
    ("response", "count"),
    [
        (("200 OK", b'[{"id":1,"text":"a","start":0,"stop":1},{"id":2}]'), 2),
        (("200 OK", b"{}"), None),
        (("200 OK", b"<html>", "text/html"), None),
        (("404 N",), None),
        (("405 M",), None),
        (("501 N",), None),
    ],
)
async def test_tokens_are_counted_where_the_engine_can(
    serve: Any, ask: Any, response: bytes, count: int | None
) -> None:
    async with serve([response]) as engine:
        assert await ask.tgi.count_tokens(engine.url, "你好") == count
    assert engine.requests[0][::2] == ("/tokenize", {"inputs": "你好"})


async def test_a_text_is_split_as_the_engine_splits_it(serve: Any, ask: Any) -> None:
    body = [{"id": 5, "text": "你", "start": 0, "stop": 1}, {"id": 6, "text": "好", "start": 1, "stop": 2}]
    async with serve([("200 OK", body)]) as engine:
        spans = await ask.tgi.tokenize(engine.url, "你好")
    assert spans == (TokenSpan(5, "你", 0, 1), TokenSpan(6, "好", 1, 2))
    assert engine.requests[0][::2] == ("/tokenize", {"inputs": "你好"})


@pytest.mark.parametrize("status", ["404 N", "405 M", "501 N"])
async def test_an_engine_without_a_tokenizer_splits_nothing(serve: Any, ask: Any, status: str) -> None:
    async with serve([(status,)]) as engine:
        assert await ask.tgi.tokenize(engine.url, "x") is None


@pytest.mark.parametrize("body", [[{"id": 1}], [1]], ids=["fields missing", "no objects"])
async def test_a_list_that_holds_no_tokens_is_an_error(serve: Any, ask: Any, body: Any) -> None:
    async with serve([("200 OK", body)]) as engine:
        with pytest.raises(EngineError, match="understood"):
            await ask.tgi.tokenize(engine.url, "x")


async def test_likeliest_tokens_come_with_the_token_at_whose_place_they_are(serve: Any, ask: Any) -> None:
    other = {"id": 9, "text": "b", "logprob": -2.0, "special": False}
    first = token("a") | {"top_tokens": [token("a")["token"], other]}
    async with serve(["STREAM", first, last("c", "ac") | {"top_tokens": []}, "END"]) as engine:
        pieces = await ask.collect(engine.url, {"top_n_tokens": 2})
    assert pieces[0].top == (Token("a", 101, -0.5, False), Token("b", 9, -2.0, False))
    assert (pieces[0].last, pieces[1].last, pieces[1].top) == (False, True, ())


@pytest.mark.parametrize("end", ["END", "CLOSE"])
async def test_a_stream_without_its_end_is_told_from_other_failures(serve: Any, ask: Any, end: str) -> None:
    async with serve(["STREAM", HI[0], end]) as engine:
        with pytest.raises(Truncated, match="after 1 tokens"):
            await ask.collect(engine.url)


async def test_health_and_info_say_what_the_engine_says(serve: Any, ask: Any) -> None:
    async with serve([("200 OK",)], [("200 OK", b'{"model_id":"m"}')]) as engine:
        await ask.tgi.healthy(engine.url, 1.0)
        assert await ask.tgi.info(engine.url, 1.0) == {"model_id": "m"}
    assert [path for path, *_ in engine.requests] == ["/health", "/info"]


@pytest.mark.parametrize(
    ("script", "expected", "words"),
    [
        ([("503 S", {"error": "unhealthy", "error_type": "healthcheck"})], ModelUnavailable, "unhealthy"),
        (["HOLD"], EngineTimeout, "within 0.2 s"),
        (["CLOSE"], ModelUnavailable, "unreachable"),
    ],
)
async def test_an_engine_that_is_not_healthy_says_why(
    serve: Any, ask: Any, script: list[Any], expected: type[GatewayError], words: str
) -> None:
    async with serve(script, script) as engine:
        with pytest.raises(expected, match=words):
            await ask.tgi.healthy(engine.url, 0.2)
        with pytest.raises(expected, match=words):
            await ask.tgi.info(engine.url, 0.2)


async def test_every_kind_of_engine_is_found_by_its_name() -> None:
    async with open_client() as client:
        engine: EngineClient = ENGINES["tgi"](client)
    assert isinstance(engine, TgiEngine)


async def test_a_hundred_streams_at_once_all_arrive(serve: Any, ask: Any) -> None:
    async with serve(*[["STREAM", *HI, "END"]] * 100) as engine, open_client() as client:
        many = type(ask)(TgiEngine(client))
        answers = await asyncio.gather(*(many.collect(engine.url) for _ in range(100)))
    assert [len(pieces) for pieces in answers] == [4] * 100


async def test_the_proxy_of_the_environment_is_not_used(
    serve: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serve(WHOLE) as engine, open_client() as client:
        assert len(await type(ask)(TgiEngine(client)).collect(engine.url)) == 4
