from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.errors import (
    EngineError,
    GatewayError,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    PayloadTooLarge,
)
from gateway.upstream.base import EngineUnreachable, SuspectEngineError, is_suspect

DEADLINE_S = 5.0


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def token(text: str, index: int = 1, whole: str | None = None) -> dict[str, Any]:
    one = {"id": index, "text": text, "logprob": -0.5, "special": False}
    return {"index": index, "token": one, "generated_text": whole, "details": None}


HI = [token("Hello", 1), token(" wor", 2), token("ld", 3, "Hello world")]
WHOLE = ["STREAM", *HI, "END"]


LIMIT = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 20. Given: 9 `inputs` tokens"
TOP_P = "Input validation error: `top_p` must be > 0.0 and < 1.0"
SERDE = b"Failed to deserialize the JSON body into the target type: parameters.top_k: invalid type at line 1"
PAGE = b"<html>nginx</html>"


def error(text: object, kind: str) -> dict[str, Any]:
    return {"error": text, "error_type": kind}


@pytest.mark.parametrize(
    ("response", "expected", "field", "suspect", "words"),
    [
        (["STREAM", error(LIMIT, "validation"), "END"], InvalidRequest, "inputs", False, "must be <= 20"),
        (
            ["STREAM", error(TOP_P, "validation"), "END"],
            InvalidRequest,
            "parameters.top_p",
            False,
            "must be > 0",
        ),
        (
            ["STREAM", error("Model is overloaded", "overloaded"), "END"],
            Overloaded,
            None,
            False,
            "all the requests",
        ),
        (["STREAM", error("memory", "generation"), "END"], SuspectEngineError, None, True, "memory"),
        (["STREAM", error("odd", "unheard_of"), "END"], EngineError, None, False, "odd"),
        (["STREAM", {"error": {"no": "text"}}, "END"], EngineError, None, False, "reported an error"),
        (["STREAM", chunk(b"data: not json\n\n"), "END"], EngineError, None, False, "cannot be understood"),
        (["STREAM", chunk(b"data: [1]\n\n"), "END"], EngineError, None, False, "cannot be understood"),
        ([("422 U", error(LIMIT, "validation"))], InvalidRequest, "inputs", False, "must be <= 20"),
        ([("422 U", SERDE, "text/plain; charset=utf-8")], InvalidRequest, "parameters.top_k", False, "top_k"),
        ([("422 U", ["not", "an object"])], InvalidRequest, None, False, "no reason given"),
        ([("422 U", b"\xff\xfe broken", "text/plain")], InvalidRequest, None, False, "broken"),
        ([("429 T", error("Model is overloaded", "overloaded"))], Overloaded, None, False, "requests"),
        ([("424 F", error("CUDA", "generation"))], SuspectEngineError, None, True, "CUDA"),
        ([("500 I", error("x", "incomplete_generation"))], SuspectEngineError, None, True, "failed"),
        ([("500 I",)], SuspectEngineError, None, True, "status 500"),
        ([("503 S", error("unhealthy", "healthcheck"))], ModelUnavailable, None, True, "unhealthy"),
        ([("502 B", PAGE, "text/html")], ModelUnavailable, None, True, "not available"),
        ([("400 B", b"Failed to parse", "text/plain")], EngineError, None, False, "Failed to parse"),
        ([("413 P", b"length limit exceeded", "text/plain")], PayloadTooLarge, "inputs", False, "larger"),
        ([("415 U", b"Expected request with", "text/plain")], EngineError, None, False, "415"),
        ([("401 U",)], EngineError, None, False, "wants a key"),
        ([("404 N",)], EngineError, None, False, "is this a TGI engine"),
        ([("405 M",)], EngineError, None, False, "is this a TGI engine"),
        ([("302 F", b"", "text/html", "location: /login\r\n")], EngineError, None, False, "status 302"),
        ([("200 OK", PAGE, "text/html")], EngineError, None, False, "text/html"),
        ([("200 OK", PAGE, "text/event-stream")], SuspectEngineError, None, True, "after 0 tokens"),
        ([("200 OK", b"", "text/event-stream")], SuspectEngineError, None, True, "truncated"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n\r\n"], ModelUnavailable, None, True, "unreachable"),
    ],
)
async def test_every_refusal_is_raised_before_the_first_token(
    serve: Any,
    ask: Any,
    response: list[Any],
    expected: type[GatewayError],
    field: str | None,
    suspect: bool,
    words: str,
) -> None:
    async with serve([*response, "CLOSE"], WHOLE) as engine:
        caught = await ask.refused(engine.url)
        assert type(caught).status == expected.status
        assert isinstance(caught, expected)
        assert (caught.field, is_suspect(caught)) == (field, suspect)
        assert words in caught.message
        # Its connection was given back: the next request finds one.
        assert len(await ask.collect(engine.url)) == 4


@pytest.mark.parametrize(
    "body",
    [
        error("Template error: cannot render <|im_start|>user the secret of the prompt", "template_error"),
        error("the secret of the prompt" * 100, "generation"),
        error("Cannot read: <|im_start|>user\n the  secret of the prompt<|im_end|>", "validation"),
    ],
)
async def test_an_engine_that_repeats_the_prompt_is_not_quoted(
    serve: Any, ask: Any, body: dict[str, Any]
) -> None:
    async with serve([("422 U", body)]) as engine:
        caught = await ask.refused(engine.url)
    assert "repeats the prompt" in caught.message


async def test_long_words_of_an_engine_are_cut(serve: Any, ask: Any) -> None:
    async with serve([("422 U", b"no\n" * 50_000, "text/plain"), "CLOSE"]) as engine:
        caught = await ask.refused(engine.url)
    assert len(caught.message) < 500
    assert "\n" not in caught.message


@pytest.mark.parametrize("tokens", [True, False], ids=["streamed", "collected"])
@pytest.mark.parametrize(
    ("end", "expected", "suspect", "words"),
    [
        (["END"], SuspectEngineError, True, "truncated"),
        (["CLOSE"], SuspectEngineError, True, "truncated"),
        (["RESET"], SuspectEngineError, True, "truncated"),
        ([chunk(b'data: {"index":3,"tok'), "END"], SuspectEngineError, True, "truncated"),
        ([error("CUDA", "generation"), "END"], SuspectEngineError, True, "CUDA"),
        ([error("x", "incomplete_generation_stream"), "END"], SuspectEngineError, True, "failed"),
        ([error("`stop` is", "validation"), "END"], InvalidRequest, False, "refuses"),
        ([error("", "overloaded"), "END"], Overloaded, False, "requests"),
        ([error("odd", ""), "END"], EngineError, False, "after 2 tokens"),
        ([chunk(b"data: {]\n\n")], EngineError, False, "understood"),
        ([{"generated_text": "x"}], EngineError, False, "understood"),
        ([{"token": {"text": 3}, "generated_text": 3}], EngineError, False, "understood"),
        ([chunk(b"data: " + b"x" * 1024 * 1024)] * 9, EngineError, False, "larger than"),
    ],
)
async def test_a_failure_in_the_middle_comes_after_the_tokens_that_came(
    serve: Any,
    ask: Any,
    end: list[Any],
    expected: type[GatewayError],
    suspect: bool,
    words: str,
    tokens: bool,
) -> None:
    seen: list[object] = []

    async def read(url: str) -> None:
        async with ask.stream(url, tokens=tokens) as pieces:
            async for piece in pieces:
                seen.append(piece)  # noqa: PERF401 - what came before the error is wanted

    whole_body = "END" in end
    script = ["STREAM", *HI[:2], *end] if whole_body else ["STREAM", *HI[:2], *end, "HOLD"]
    async with serve(script, WHOLE) as engine, asyncio.timeout(DEADLINE_S):
        with pytest.raises(expected) as caught:
            await read(engine.url)
        if not whole_body:
            await engine.left.wait()
        assert len(await ask.collect(engine.url)) == 4
    assert len(seen) == (2 if tokens else 0)
    assert (is_suspect(caught.value), words in caught.value.message) == (suspect, True)
    if "truncated" in words:
        assert "after 2 tokens" in caught.value.message


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1", "Connection refused"),
        ("http://user:password@127.0.0.1:1/base/", "127.0.0.1:1/base/generate_stream"),
        ("http://no-such-host.invalid:80", "cannot be resolved"),
    ],
)
async def test_nobody_at_the_address_is_said_with_the_address_and_the_reason(
    ask: Any, url: str, words: str
) -> None:
    caught = await ask.refused(url)
    assert isinstance(caught, EngineUnreachable)
    assert words in caught.message
    assert "password" not in caught.message
    assert caught.hint
    assert is_suspect(caught)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "127.0.0.1:80", "http://[::"])
async def test_an_address_that_is_none_is_said_to_be_none(ask: Any, url: str) -> None:
    assert "not usable" in (await ask.refused(url)).message


@pytest.mark.parametrize("end", ["RESET", "CLOSE"])
async def test_an_engine_that_hangs_up_without_an_answer_is_unreachable(
    serve: Any, ask: Any, end: str
) -> None:
    async with serve([end]) as engine:
        assert isinstance(await ask.refused(engine.url), EngineUnreachable)
