"""What engines of kind ``openai`` refuse, how they fail, and what becomes of the connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.errors import (
    EngineError,
    EngineTimeout,
    GatewayError,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    PayloadTooLarge,
)
from gateway.schemas import Token
from gateway.upstream.base import EngineUnreachable, SuspectEngineError, Truncated, is_suspect

DEADLINE_S = 5.0
PAGE = b"<html>nginx</html>"
LONG = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def piece(text: str, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"text": text, "index": 0, "finish_reason": reason}]}


def error(message: object, kind: str = "", code: object = None, **more: object) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "code": code, **more}}


MODELS = [("200 OK", {"data": [{"id": "m", "owned_by": "llamacpp"}]})]
DONE = chunk(b"data: [DONE]\n\n")
HI = [piece("Hello"), piece(" world")]
WHOLE = ["STREAM", *HI, piece("", "stop"), DONE, "END"]
LOADING = error("Loading model", "unavailable_error", 503)


@pytest.mark.parametrize(
    ("response", "expected", "field", "suspect", "words"),
    [
        (
            [("400 B", error("too many", "exceed_context_size_error", 400))],
            InvalidRequest,
            "inputs",
            False,
            "too many",
        ),
        ([("400 B", error(LONG, "BadRequestError", 400))], InvalidRequest, "inputs", False, "5000 tokens"),
        (
            [("400 B", {"object": "error", "message": LONG, "type": "BadRequestError", "code": 400})],
            InvalidRequest,
            "inputs",
            False,
            "5000 tokens",
        ),
        (
            [("400 B", error("no", "invalid_request_error", "context_length_exceeded"))],
            InvalidRequest,
            "inputs",
            False,
            "no",
        ),
        (
            [("400 B", error("must be positive", param="max_tokens"))],
            InvalidRequest,
            "parameters.max_new_tokens",
            False,
            "must be positive",
        ),
        (
            [("400 B", error("odd", param="repeat_penalty"))],
            InvalidRequest,
            "parameters.repetition_penalty",
            False,
            "odd",
        ),
        ([("422 U", {"detail": "top_p is wrong"})], InvalidRequest, None, False, "top_p is wrong"),
        ([("400 B", {"error": "a bare text"})], InvalidRequest, None, False, "a bare text"),
        ([("400 B", ["not", "an object"])], InvalidRequest, None, False, "no reason given"),
        ([("401 U", error("key"))], EngineError, None, False, "wants a key"),
        ([("404 N", error("The model `m` does not exist."))], EngineError, None, False, "know the model"),
        ([("404 N",)], EngineError, None, False, "OpenAI's routes"),
        ([("413 P", b"too large", "text/plain")], PayloadTooLarge, "inputs", False, "larger"),
        ([("429 T", error("queue"))], Overloaded, None, False, "requests"),
        ([("500 I", error("CUDA out of memory"))], SuspectEngineError, None, True, "CUDA"),
        ([("500 I", b"Internal Server Error", "text/plain")], SuspectEngineError, None, True, "Internal"),
        ([("503 S", LOADING)], ModelUnavailable, None, True, "Loading model"),
        ([("502 B", PAGE, "text/html")], ModelUnavailable, None, True, "not available"),
        ([("418 T", b"no", "text/plain")], EngineError, None, False, "status 418: no"),
        ([("200 OK", PAGE, "text/html")], EngineError, None, False, "text/html"),
        ([("200 OK", {"choices": []})], EngineError, None, False, "application/json"),
        ([("200 OK", b"", "text/event-stream")], Truncated, None, True, "after 0 pieces"),
        (["STREAM", DONE, "END"], Truncated, None, True, "said that it was done"),
        (
            ["STREAM", error("wrong", "invalid_request_error"), DONE, "END"],
            InvalidRequest,
            None,
            False,
            "wrong",
        ),
        (
            ["STREAM", {"object": "error", "message": LONG, "code": 400}, "END"],
            InvalidRequest,
            "inputs",
            False,
            "5000",
        ),
        (["STREAM", error("dead", "EngineDeadError", 500), "END"], SuspectEngineError, None, True, "dead"),
        (["STREAM", LOADING, "END"], ModelUnavailable, None, True, "Loading"),
        (["STREAM", error("odd", "odd"), "END"], EngineError, None, False, "reported an error: odd"),
        (["STREAM", {"error": "odd"}, "END"], EngineError, None, False, "odd"),
        (["STREAM", {"error": {"no": "text"}}, "END"], EngineError, None, False, "no reason given"),
        (["STREAM", chunk(b"data: not json\n\n"), "END"], EngineError, None, False, "understood"),
        (["STREAM", chunk(b"data: [1]\n\n"), "END"], EngineError, None, False, "understood"),
        (["STREAM", {"choices": [{"text": 5}]}, "END"], EngineError, None, False, "understood"),
        (["STREAM", {"choices": {"a": 1}}, "END"], EngineError, None, False, "understood"),
        (["STREAM", {"choices": [], "usage": 3}, "END"], EngineError, None, False, "understood"),
        (["STREAM", piece("", "abort"), "END"], SuspectEngineError, None, True, "gave up"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n\r\n"], ModelUnavailable, None, True, "unreachable"),
    ],
)
async def test_every_refusal_is_raised_before_the_first_token(
    serve: Any,
    ask_openai: Any,
    response: list[Any],
    expected: type[GatewayError],
    field: str | None,
    suspect: bool,
    words: str,
) -> None:
    async with serve(MODELS, [*response, "CLOSE"]) as engine:
        caught = await ask_openai.refused(engine.url)
    assert isinstance(caught, expected)
    assert (caught.status, caught.field, is_suspect(caught)) == (expected.status, field, suspect)
    assert words in caught.message
    async with serve(MODELS, WHOLE) as engine:
        # The one connection was given back.
        assert len(await ask_openai.collect(engine.url)) == 3


@pytest.mark.parametrize(
    ("response", "expected", "words"),
    [
        ([("503 S", LOADING)], ModelUnavailable, "Loading model"),
        ([("401 U",)], EngineError, "wants a key"),
        ([("200 OK", b"[]")], EngineError, "understood"),
        ([("200 OK", {"data": [3]})], EngineError, "understood"),
        ([("200 OK", {"data": []})], EngineError, "there are: none"),
        ([("200 OK", PAGE, "text/html")], EngineError, "understood"),
        (["CLOSE"], EngineUnreachable, "unreachable"),
        (["HOLD"], EngineTimeout, "first_token clock"),
    ],
)
async def test_an_engine_that_cannot_say_what_it_serves_is_an_error(
    serve: Any, ask_openai: Any, response: list[Any], expected: type[GatewayError], words: str
) -> None:
    async with serve(response) as engine:
        caught = await ask_openai.refused(engine.url, limits={"first_token_s": 0.2, "total_s": 0.2})
    assert isinstance(caught, expected)
    assert words in caught.message or "total clock" in caught.message


@pytest.mark.parametrize(
    "body",
    [
        error("Cannot render <|im_start|>user the secret of the prompt", "invalid_request_error"),
        {"detail": "the secret of the prompt" * 100},
    ],
)
async def test_an_engine_that_repeats_the_prompt_is_not_quoted(
    serve: Any, ask_openai: Any, body: dict[str, Any]
) -> None:
    async with serve(MODELS, [("400 B", body)]) as engine:
        assert "repeats the prompt" in (await ask_openai.refused(engine.url)).message


@pytest.mark.parametrize("tokens", [True, False], ids=["streamed", "collected"])
@pytest.mark.parametrize(
    ("end", "expected", "suspect", "words"),
    [
        (["END"], Truncated, True, "truncated"),
        (["CLOSE"], Truncated, True, "truncated"),
        (["RESET"], Truncated, True, "truncated"),
        ([DONE, "END"], Truncated, True, "after 2 pieces without a reason"),
        ([chunk(b'data: {"choices":[{"te'), "END"], Truncated, True, "truncated"),
        ([error("CUDA", "InternalServerError", 500), DONE, "END"], SuspectEngineError, True, "CUDA"),
        ([error("odd"), DONE, "END"], SuspectEngineError, True, "after 2 pieces: odd"),
        ([error("bad", "BadRequestError", 400), DONE, "END"], InvalidRequest, False, "bad"),
        ([piece("", "error"), DONE, "END"], SuspectEngineError, True, "gave up after 2 pieces"),
        ([chunk(b"data: {]\n\n")], EngineError, False, "understood"),
        ([chunk(b"data: " + b"x" * 1024 * 1024)] * 9, EngineError, False, "larger than"),
    ],
)
async def test_a_failure_in_the_middle_comes_after_the_pieces_that_came(
    serve: Any,
    ask_openai: Any,
    end: list[Any],
    expected: type[GatewayError],
    suspect: bool,
    words: str,
    tokens: bool,
) -> None:
    seen: list[Any] = []
    body_ends = bool({"END", "CLOSE", "RESET"} & {step for step in end if isinstance(step, str)})
    script = ["STREAM", *HI, *end] if body_ends else ["STREAM", *HI, *end, "HOLD"]
    async with serve(MODELS, script) as engine, asyncio.timeout(DEADLINE_S):
        caught = await ask_openai.broken(engine.url, seen, tokens=tokens)
        if not body_ends:
            await engine.left.wait()
    assert isinstance(caught, expected)
    assert (len(seen), is_suspect(caught)) == (2 if tokens else 0, suspect)
    assert words in caught.message


@pytest.mark.parametrize(
    ("steps", "limits", "clock", "suspect"),
    [
        (["HOLD"], {"first_token_s": 0.2}, "first_token", True),
        (["STREAM", *["KEEP-ALIVE", "PAUSE"] * 200], {"first_token_s": 0.2}, "first_token", True),
        (["STREAM", *HI, "HOLD"], {"between_tokens_s": 0.2}, "between_tokens", True),
        (["STREAM", *HI, piece("", "stop"), "HOLD"], {"between_tokens_s": 0.2}, "between_tokens", True),
        (
            ["STREAM", *HI, *[piece("x"), "PAUSE"] * 200],
            {"total_s": 0.4, "between_tokens_s": 0.3},
            "total",
            False,
        ),
    ],
)
async def test_each_clock_has_its_own_error(
    serve: Any,
    ask_openai: Any,
    steps: list[Any],
    limits: dict[str, float],
    clock: str,
    suspect: bool,
) -> None:
    async with serve(MODELS, steps) as engine, asyncio.timeout(DEADLINE_S):
        with pytest.raises(EngineTimeout) as caught:
            await ask_openai.collect(engine.url, limits=limits)
        await engine.left.wait()
    assert (getattr(caught.value, "clock", None), is_suspect(caught.value)) == (clock, suspect)


async def test_the_connect_clock_has_its_own_error(deaf_url: str, ask_openai: Any) -> None:
    caught = await ask_openai.refused(deaf_url, limits={"connect_s": 0.2})
    assert getattr(caught, "clock", None) == "connect"


async def test_a_plain_request_keeps_to_the_total_clock_alone(serve: Any, ask_openai: Any) -> None:
    steps = ["STREAM", HI[0], "PAUSE", HI[1], "PAUSE", piece("", "stop"), DONE, "END"]
    async with serve(MODELS, steps) as engine:
        limits = {"between_tokens_s": 0.01, "first_token_s": 0.01}
        assert (await ask_openai.generate(engine.url, {}, limits)).text == "Hello world"


@pytest.mark.parametrize(
    "sent", [[], ["STREAM"], ["STREAM", HI[0]]], ids=["no head", "no token", "mid-stream"]
)
async def test_a_cancelled_request_closes_its_connection_at_once(
    serve: Any, ask_openai: Any, sent: list[Any]
) -> None:
    async with serve(MODELS, [*sent, "HOLD"], WHOLE) as engine, asyncio.timeout(DEADLINE_S):
        task = asyncio.create_task(ask_openai.collect(engine.url))
        await engine.held.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await engine.left.wait()
        assert len(await ask_openai.collect(engine.url)) == 3


async def test_leaving_a_stream_early_closes_its_connection_at_once(serve: Any, ask_openai: Any) -> None:
    async with serve(MODELS, ["STREAM", *HI, "HOLD"], WHOLE) as engine, asyncio.timeout(DEADLINE_S):
        async with ask_openai.stream(engine.url) as pieces:
            assert await anext(pieces) == Token("Hello", None, None, False)
        await engine.left.wait()
        assert len(await ask_openai.collect(engine.url)) == 3


async def test_a_stream_can_be_entered_in_one_task_and_read_in_another(serve: Any, ask_openai: Any) -> None:
    async with serve(MODELS, WHOLE) as engine, asyncio.timeout(DEADLINE_S):
        stream = ask_openai.stream(engine.url)
        pieces = await asyncio.create_task(stream.__aenter__())

        async def read() -> int:
            return len([one async for one in pieces])

        assert await asyncio.create_task(read()) == 3
        await stream.__aexit__(None, None, None)
