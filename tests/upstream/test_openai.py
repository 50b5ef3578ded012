"""The engine kind ``openai`` against scripted answers of each program that it knows."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import EngineError, GatewayError, InvalidRequest
from gateway.parameters import NAMES
from gateway.schemas import Completed, Prompt, Token, TokenSpan
from gateway.upstream import ENGINES
from gateway.upstream import openai_flavours as table
from gateway.upstream.base import EngineClient
from gateway.upstream.openai import OpenAiEngine
from gateway.upstream.transport import open_client

DEADLINE_S = 5.0
PROMPT = Prompt("你好", ("<|im_end|>",))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


DONE = chunk(b"data: [DONE]\n\n")


def models(owner: str, *cards: dict[str, Any], **more: Any) -> tuple[Any, ...]:
    """The answer of ``/v1/models``: one model ``m`` unless cards are given."""
    listed = [{"id": "m", "owned_by": owner, **more}] if not cards else list(cards)
    return ("200 OK", {"object": "list", "data": [{"owned_by": owner, **card} for card in listed]})


LLAMA = models("llamacpp", meta={"n_ctx": 512})
VLLM = models("vllm", max_model_len=4096)
SGLANG = models("sglang", max_model_len=4096)
OTHER = models("someone")
NO_OLLAMA = ("404 N",)
OLLAMA = models("library")
VERSION = ("200 OK", {"version": "0.12.3"})
BARE = ("200 OK", {"template": "{{ .Prompt }}"})


def llama(text: str, number: int, count: int, **more: Any) -> dict[str, Any]:
    """A chunk as llama.cpp's server writes it."""
    top = [{"id": number, "token": text, "logprob": -0.5}, {"id": 9, "token": "other", "logprob": -2.0}]
    content = [{"id": number, "token": text, "logprob": -0.5, "top_logprobs": top}]
    choice = {"text": text, "index": 0, "logprobs": {"content": content}, "finish_reason": None}
    return {"choices": [choice], "timings": {"cache_n": 2, "prompt_n": 3, "predicted_n": count}} | more


def llama_end(reason: str, count: int) -> dict[str, Any]:
    choice = {"text": "", "index": 0, "logprobs": None, "finish_reason": reason}
    return {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": count}}


def vllm(texts: list[str], ids: list[int], count: int, reason: str | None = None) -> dict[str, Any]:
    """A chunk as vLLM writes it; several tokens come together when the reader is slow."""
    logprobs = {"tokens": texts, "token_logprobs": [-0.5] * len(texts), "top_logprobs": [{}] * len(texts)}
    choice = {"text": "".join(texts), "index": 0, "logprobs": logprobs, "token_ids": ids}
    return {
        "choices": [{**choice, "finish_reason": reason, "stop_reason": None}],
        "usage": {"prompt_tokens": 5, "completion_tokens": count},
    }


def plain(text: str, reason: str | None = None) -> dict[str, Any]:
    """A chunk with nothing beyond the text, as Ollama writes it."""
    return {"choices": [{"text": text, "index": 0, "finish_reason": reason}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}
LLAMA_HI = ["STREAM", llama("Hi", 7, 1), llama("!", 8, 2), llama("", 2, 3), llama_end("stop", 3), DONE, "END"]
PLAIN_HI = ["STREAM", plain("Hi"), plain("!"), plain("", "stop"), USAGE, DONE, "END"]


def completed(text: str, reason: Any, count: int, prompt: int | None, seed: int | None = None) -> Completed:
    details = {"finish_reason": reason, "generated_tokens": count, "seed": seed, "input_length": prompt}
    return Completed(text, reason, count, prompt, seed, details)


def sent(engine: Any, path: str = "/v1/completions") -> Any:
    [body] = [body for asked, _, body in engine.requests if asked == path]
    return body


@pytest.mark.parametrize("cut", [1, 7, 100_000], ids=["byte by byte", "sevens", "at once"])
async def test_llama_cpps_stream_is_read_however_the_network_cuts_it(
    serve: Any, ask_openai: Any, cut: int
) -> None:
    parts = [llama("你", 7, 2), llama("🙂", 8, 5), llama("", 2, 6), llama_end("stop", 6)]
    body = b"".join(b"data: " + json.dumps(part).encode() + b"\n\n" for part in parts) + b"data: [DONE]\n\n"
    steps = ["STREAM", *(chunk(body[at : at + cut]) for at in range(0, len(body), cut)), "END"]
    async with serve([LLAMA], steps) as engine:
        assert await ask_openai.collect(engine.url) == [
            Token("你", 7, -0.5, False),
            Token("🙂", 8, -0.5, False),
            Token("", 2, -0.5, True, last=True),
            completed("你🙂", "eos_token", 6, 5),
        ]


async def test_vllms_tokens_that_come_together_are_told_apart(serve: Any, ask_openai: Any) -> None:
    steps = ["STREAM", vllm(["Hi"], [7], 1), vllm([" the", "re"], [8, 9], 3), vllm([""], [2], 4, "stop")]
    async with serve([VLLM], [*steps, {**USAGE, "usage": None}, DONE, "END"]) as engine:
        assert await ask_openai.collect(engine.url, {"max_new_tokens": 9}) == [
            Token("Hi", 7, -0.5, False),
            Token(" the", 8, -0.5, False),
            Token("re", 9, -0.5, False),
            Token("", 2, -0.5, True, last=True),
            completed("Hi there", "eos_token", 4, 5),
        ]


async def test_halves_of_a_character_make_one_piece_without_an_id(serve: Any, ask_openai: Any) -> None:
    halves = vllm(["\ufffd", "\ufffd"], [7, 8], 2)
    halves["choices"][0]["text"] = "你"
    async with serve([VLLM], ["STREAM", halves, vllm([], [], 2, "length"), DONE, "END"]) as engine:
        assert await ask_openai.collect(engine.url, {"max_new_tokens": 2}) == [
            Token("你", None, None, False, last=True),
            completed("你", "length", 2, 5),
        ]


async def test_an_engine_that_says_little_is_understood(serve: Any, ask_openai: Any) -> None:
    async with serve([OTHER], [NO_OLLAMA], ["STREAM", plain("Hi"), plain("!", "length"), "END"]) as engine:
        assert await ask_openai.collect(engine.url) == [
            Token("Hi", None, None, False),
            Token("!", None, None, False),
            completed("Hi!", "length", 2, None),
        ]


async def test_usage_counts_for_more_than_pieces(serve: Any, ask_openai: Any) -> None:
    async with serve([OTHER], [NO_OLLAMA], PLAIN_HI) as engine:
        assert (await ask_openai.collect(engine.url))[-1] == completed("Hi!", "eos_token", 3, 5)


async def test_a_collected_answer_is_the_completed_alone_and_asks_for_no_logprobs(
    serve: Any, ask_openai: Any
) -> None:
    async with serve([LLAMA], LLAMA_HI) as engine:
        assert await ask_openai.collect(engine.url, tokens=False) == [completed("Hi!", "eos_token", 3, 5)]
        assert "logprobs" not in sent(engine)


async def test_the_token_at_the_limit_is_the_last(serve: Any, ask_openai: Any) -> None:
    steps = ["STREAM", llama("Hi", 7, 1), llama("!", 8, 2), llama_end("length", 2), DONE, "END"]
    async with serve([LLAMA], steps) as engine:
        found = await ask_openai.collect(engine.url, {"max_new_tokens": 2})
    assert [getattr(piece, "last", None) for piece in found] == [False, True, None]


async def test_likeliest_tokens_come_with_each_token(serve: Any, ask_openai: Any) -> None:
    async with serve([LLAMA], LLAMA_HI) as engine:
        first, *_ = await ask_openai.collect(engine.url, {"top_n_tokens": 2})
        assert sent(engine)["logprobs"] == 2
    assert first.top == (Token("Hi", 7, -0.5, False), Token("other", 9, -2.0, False))


async def test_entering_waits_for_the_first_token_and_for_no_more(serve: Any, ask_openai: Any) -> None:
    first, rest = asyncio.Event(), asyncio.Event()
    steps = ["STREAM", "KEEP-ALIVE", first, llama("Hi", 7, 1), rest, llama_end("stop", 1), DONE, "END"]
    async with serve([LLAMA], steps) as engine, asyncio.timeout(DEADLINE_S):
        stream = ask_openai.stream(engine.url)
        entering = asyncio.create_task(stream.__aenter__())
        done, _ = await asyncio.wait({entering}, timeout=0.05)
        assert not done
        first.set()
        pieces = await entering
        assert await anext(pieces) == Token("Hi", 7, -0.5, False)
        rest.set()
        assert len([piece async for piece in pieces]) == 1
        await stream.__aexit__(None, None, None)


async def test_a_connection_is_used_again_and_the_engine_is_asked_once_who_it_is(
    serve: Any, ask_openai: Any
) -> None:
    async with serve([LLAMA], *[LLAMA_HI] * 3) as engine:
        for _ in range(3):
            assert len(await ask_openai.collect(engine.url)) == 4
        assert engine.connections == 1
        assert [path for path, *_ in engine.requests] == ["/v1/models", *["/v1/completions"] * 3]


# ---------------------------------------------------------------- what is sent

GREEDY = {"max_new_tokens": 4}
EVERYTHING = {
    "max_new_tokens": 4,
    "temperature": 0.5,
    "top_p": 0.9,
    "frequency_penalty": 0.1,
    "seed": 2**64 - 1,
    "do_sample": True,
    "details": True,
}
CUTS = {"top_k": 5, "repetition_penalty": 1.1}
SENT = {"prompt": "你好", "stream": True, "stop": ["<|im_end|>"], "max_tokens": 4}
LLAMA_SENT = {
    **SENT,
    "model": "m",
    "stream_options": {"include_usage": True},
    "samplers": ["penalties", "temperature", "top_k", "top_p", "typ_p"],
    "timings_per_token": True,
    "min_p": 0,
    "repeat_last_n": 512,
    "logprobs": 1,
}
VLLM_SENT = {
    **SENT,
    "model": "m",
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    "return_token_ids": True,
    "min_p": 0.0,
    "logprobs": 0,
}
DRAWN = {"temperature": 0.5, "top_p": 0.9, "frequency_penalty": 0.1}


@pytest.mark.parametrize(
    ("head", "parameters", "body"),
    [
        (
            [LLAMA],
            GREEDY,
            {**LLAMA_SENT, "temperature": 0, "top_k": 0, "typical_p": 1.0, "repeat_penalty": 1.0},
        ),
        (
            [LLAMA],
            {**EVERYTHING, **CUTS, "typical_p": 0.8},
            {**LLAMA_SENT, **DRAWN, "top_k": 5, "typical_p": 0.8, "repeat_penalty": 1.1, "seed": 0},
        ),
        (
            [VLLM],
            {**GREEDY, "seed": 2**63},
            {**VLLM_SENT, "temperature": 0, "top_k": -1, "repetition_penalty": 1.0, "seed": 0},
        ),
        (
            [SGLANG],
            {**EVERYTHING, **CUTS},
            {**VLLM_SENT, **DRAWN, "top_k": 5, "repetition_penalty": 1.1, "seed": 2**63 - 1},
        ),
        (
            [VLLM],
            {"do_sample": True, "max_new_tokens": 4},
            {**VLLM_SENT, "temperature": 1.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0},
        ),
        (
            [OLLAMA, VERSION, BARE],
            {**EVERYTHING, "seed": 7},
            {**SENT, **DRAWN, "model": "m", "seed": 7, "stream_options": {"include_usage": True}},
        ),
        (
            [OTHER, NO_OLLAMA],
            {**EVERYTHING, "seed": None, "best_of": 1, "watermark": False, "top_n_tokens": 0},
            {**SENT, **DRAWN, "model": "m", "stream_options": {"include_usage": True}, "logprobs": 0},
        ),
    ],
    ids=["llama greedy", "llama", "vllm greedy", "sglang", "vllm sampling", "ollama", "other"],
)
async def test_each_engine_is_asked_in_its_own_words(
    serve: Any, ask_openai: Any, head: list[Any], parameters: dict[str, Any], body: dict[str, Any]
) -> None:
    async with serve(*([one] for one in head), PLAIN_HI) as engine:
        await ask_openai.collect(engine.url, parameters, prompt=PROMPT)
        assert sent(engine) == body


@pytest.mark.parametrize(
    ("head", "length"),
    [
        ([LLAMA], None),
        ([OLLAMA, VERSION, BARE], None),
        ([OTHER, NO_OLLAMA], 1024),
        ([VLLM, ("200 OK", {"count": 96, "max_model_len": 4096, "tokens": []})], 4000),
        ([VLLM, ("200 OK", {"count": 5000})], 1),
        ([VLLM, ("404 N",)], 1024),
    ],
    ids=["llama", "ollama", "other", "vllm", "vllm, too long", "vllm, cannot count"],
)
async def test_without_a_length_openais_sixteen_tokens_never_strike(
    serve: Any, ask_openai: Any, head: list[Any], length: int | None
) -> None:
    async with serve(*([one] for one in head), PLAIN_HI) as engine:
        await ask_openai.collect(engine.url)
        assert sent(engine).get("max_tokens") == length


SCHEMA = {"properties": {"a": {"type": "integer"}}}
CLOSED = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("head", "grammar", "fields"),
    [
        (LLAMA, {"type": "json", "value": SCHEMA}, {"json_schema": CLOSED}),
        (LLAMA, {"type": "json", "value": json.dumps(SCHEMA)}, {"json_schema": CLOSED}),
        (
            VLLM,
            {"type": "json_schema", "value": {"name": "x", "schema": SCHEMA}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "grammar", "schema": CLOSED},
                }
            },
        ),
    ],
)
async def test_a_schema_goes_where_the_engine_takes_it(
    serve: Any, ask_openai: Any, head: Any, grammar: Any, fields: dict[str, Any]
) -> None:
    steps = ["STREAM", plain("  "), plain('\n{"a'), plain('": 1}', "stop"), DONE, "END"]
    async with serve([head], steps) as engine:
        pieces = await ask_openai.collect(engine.url, {"grammar": grammar, "max_new_tokens": 9})
        assert {name: sent(engine)[name] for name in fields} == fields
    assert pieces[-1].text == '  \n{"a": 1}'


async def test_an_engine_that_ignores_the_schema_is_found_out_before_the_first_token(
    serve: Any, ask_openai: Any
) -> None:
    parameters = {"grammar": {"type": "json", "value": SCHEMA}, "max_new_tokens": 9}
    async with serve([LLAMA], ["STREAM", llama("Sure", 7, 1), "HOLD"]) as engine:
        with pytest.raises(InvalidRequest, match="did not follow") as caught:
            await ask_openai.stream(engine.url, parameters).__aenter__()
        async with asyncio.timeout(DEADLINE_S):
            await engine.left.wait()
    assert caught.value.field == "parameters.grammar"


@pytest.mark.parametrize(
    "parameters",
    [
        {"watermark": True},
        {"best_of": 2},
        {"decoder_input_details": True},
        {"truncate": 5},
        {"adapter_id": "a"},
        {"grammar": {"type": "regex", "value": "a+"}},
        {"grammar": {"type": "json", "value": "{"}},
        {"grammar": {"type": "json", "value": {"type": "object"}}},
        {"seed": 1, "watermark": True},
    ],
    ids=repr,
)
async def test_what_no_such_engine_can_do_is_refused_without_asking_any(
    serve: Any, ask_openai: Any, parameters: dict[str, object]
) -> None:
    async with serve() as engine:
        with pytest.raises(InvalidRequest) as caught:
            await ask_openai.collect(engine.url, parameters)
        assert engine.connections == 0
    name = list(parameters)[-1]
    assert caught.value.field == f"parameters.{name}"
    assert name in caught.value.message
    assert "openai" in caught.value.message or "not valid" in caught.value.message


@pytest.mark.parametrize(
    ("head", "name", "value", "engine_name"),
    [
        ([VLLM], "typical_p", 0.5, "vLLM"),
        ([VLLM], "top_n_tokens", 2, "vLLM"),
        ([SGLANG], "typical_p", 0.5, "SGLang"),
        ([OLLAMA, VERSION, BARE], "top_k", 5, "Ollama"),
        ([OLLAMA, VERSION, BARE], "repetition_penalty", 1.2, "Ollama"),
        ([OLLAMA, VERSION, BARE], "grammar", {"type": "json", "value": SCHEMA}, "Ollama"),
        ([OTHER, NO_OLLAMA], "top_k", 5, "does not say its name"),
    ],
)
async def test_what_this_engine_cannot_do_is_refused_and_nothing_is_generated(
    serve: Any, ask_openai: Any, head: list[Any], name: str, value: object, engine_name: str
) -> None:
    async with serve(*([one] for one in head)) as engine:
        with pytest.raises(InvalidRequest) as caught:
            await ask_openai.collect(engine.url, {name: value, "max_new_tokens": 2})
        assert len(engine.requests) == len(head)
    assert caught.value.field == f"parameters.{name}"
    assert engine_name in caught.value.message
    assert "llama.cpp" in (caught.value.hint or "")


REFERENCE = Path(__file__).parents[2] / "docs" / "REFERENCE.md"
COLUMNS = {
    "llama.cpp": [table.LLAMA_CPP],
    "vLLM, SGLang": [table.VLLM, table.SGLANG],
    "Ollama, others": [table.OLLAMA, table.OTHER],
}


def test_the_reference_says_what_each_engine_takes() -> None:
    _, _, after = REFERENCE.read_text(encoding="utf-8").partition("### Engine kinds\n")
    lines = [
        line.strip("| ").split(" | ") for line in after.partition("\n### ")[0].splitlines() if line[:1] == "|"
    ]
    said = {
        (name, column): cell == "yes"
        for line in lines[2:]
        for name in re.findall(r"`(\w+)`", line[0])
        if name != "grammar"
        for column, cell in zip(lines[0], line, strict=True)
    }
    assert {name for name, _ in said} == {*NAMES} - {"grammar"}
    for column, flavours in COLUMNS.items():
        for name in {*NAMES} - {"grammar"}:
            assert [one.takes(name) for one in flavours] == [said[name, column]] * len(flavours), (
                name,
                column,
            )


# ---------------------------------------------------------------- stop strings


@pytest.mark.parametrize(
    ("stops", "texts", "text"),
    [
        (["!"], ["Hi", "!"], "Hi!"),
        (["i! t"], ["Hi", "!", " there"], "Hi! t"),
        (["there", "!"], ["Hi! there"], "Hi!"),
        (["x", "i"], ["Hi"], "Hi"),
        (["<|im_end|>"], ["Hi", "<|im_end|>"], "Hi<|im_end|>"),
        (["好🙂"], ["你好", "🙂"], "你好🙂"),
    ],
)
@pytest.mark.parametrize("tokens", [True, False], ids=["streamed", "collected"])
async def test_a_stop_string_ends_the_answer_and_stays_in_it(
    serve: Any, ask_openai: Any, stops: list[str], texts: list[str], text: str, tokens: bool
) -> None:
    chunks = [llama(one, number, number + 1) for number, one in enumerate(texts)]
    async with serve([LLAMA], ["STREAM", *chunks, "HOLD"]) as engine, asyncio.timeout(DEADLINE_S):
        pieces = await ask_openai.collect(engine.url, {"stop": stops}, prompt=PROMPT, tokens=tokens)
        await engine.left.wait()  # the engine goes on generating unless it sees that nobody reads
        # One's own stop strings are not sent: the engine would cut them off.
        assert sent(engine).get("stop") == (None if "<|im_end|>" in stops else ["<|im_end|>"])
    assert pieces[-1] == completed(text, "stop_sequence", len(texts), 5)
    if tokens:
        assert "".join(piece.text for piece in pieces[:-1]) == text
        assert pieces[-2].last


@pytest.mark.parametrize(
    ("texts", "reason", "expected"), [(["Hi"], "stop", "eos_token"), (["Hi "], "length", "length")]
)
async def test_a_stop_string_that_never_came_is_not_the_reason(
    serve: Any, ask_openai: Any, texts: list[str], reason: str, expected: str
) -> None:
    steps = ["STREAM", *(plain(one) for one in texts), plain("", reason), DONE, "END"]
    async with serve([LLAMA], steps) as engine:
        done = (await ask_openai.collect(engine.url, {"stop": ["Hi!", " there"]}))[-1]
    assert done.finish_reason == expected


async def test_the_prompt_is_put_in_front_when_it_is_asked_for(serve: Any, ask_openai: Any) -> None:
    async with serve([LLAMA], LLAMA_HI) as engine:
        *tokens, done = await ask_openai.collect(engine.url, {"return_full_text": True}, prompt=PROMPT)
    assert (done.text, "".join(token.text for token in tokens)) == ("你好Hi!", "Hi!")


@pytest.mark.parametrize(("parameters", "seed"), [({"seed": 5}, None), ({"seed": 5, "top_k": 3}, 5)])
async def test_a_seed_is_reported_when_it_is_used(
    serve: Any, ask_openai: Any, parameters: dict[str, object], seed: int | None
) -> None:
    async with serve([LLAMA], LLAMA_HI) as engine:
        assert (await ask_openai.collect(engine.url, parameters))[-1].seed == seed


async def test_a_plain_answer_lists_its_tokens(serve: Any, ask_openai: Any) -> None:
    async with serve([LLAMA], LLAMA_HI) as engine:
        done = await ask_openai.generate(engine.url, {"max_new_tokens": 9})
    assert (done.text, done.completion_tokens, done.prompt_tokens) == ("Hi!", 3, 5)
    assert done.details["prefill"] == []
    assert [token["id"] for token in done.details["tokens"]] == [7, 8, 2]
    assert done.details["tokens"][-1] == {"id": 2, "text": "", "logprob": -0.5, "special": True}


# ---------------------------------------------------------------- who answers there


@pytest.mark.parametrize(
    ("cards", "path", "name"),
    [
        ([{"id": "a"}], "", "a"),
        ([{"id": "a"}], "/v1", "a"),
        ([{"id": "a"}], "/v1/models/", "a"),
        ([{"id": "a"}, {"id": "b"}], "/v1/models/b", "b"),
        ([{"id": "Org/a"}, {"id": "b"}], "/v1/models/Org/a", "Org/a"),
        ([{"id": "qwen2:latest"}, {"id": "b"}], "/v1/models/qwen2", "qwen2:latest"),
        ([{"id": "a", "parent": None}, {"id": "lora", "parent": "a"}], "", "a"),
        ([{"id": "a", "root": "/m"}, {"id": "b", "root": "/m"}], "", "a"),
    ],
)
async def test_the_model_is_named_as_the_engine_names_it(
    serve: Any, ask_openai: Any, cards: list[Any], path: str, name: str
) -> None:
    async with serve([models("llamacpp", *cards)], LLAMA_HI) as engine:
        await ask_openai.collect(engine.url + path)
        assert sent(engine)["model"] == name
        assert engine.requests[0][0] == "/v1/models"


@pytest.mark.parametrize(
    ("cards", "path", "words"),
    [
        ([{"id": "a"}, {"id": "b"}], "", "lists 2 models; there are: a, b"),
        ([{"id": "a"}], "/v1/models/c", "lists no model `c`; there are: a"),
    ],
)
async def test_a_model_that_cannot_be_told_is_an_error_with_the_names(
    serve: Any, ask_openai: Any, cards: list[Any], path: str, words: str
) -> None:
    async with serve([models("vllm", *cards)]) as engine:
        with pytest.raises(EngineError) as caught:
            await ask_openai.collect(engine.url + path)
    assert words in caught.value.message
    assert "/v1/models/NAME" in (caught.value.hint or "")


async def test_an_engine_without_a_list_of_models_is_asked_without_a_name(
    serve: Any, ask_openai: Any
) -> None:
    async with serve([("404 N",)], PLAIN_HI) as engine:
        await ask_openai.collect(engine.url)
        assert "model" not in sent(engine)


async def test_ollama_with_a_template_of_its_own_is_refused(serve: Any, ask_openai: Any) -> None:
    template = ("200 OK", {"template": "<|im_start|>user\n{{ .Prompt }}<|im_end|>"})
    async with serve([OLLAMA], [VERSION], [template]) as engine:
        with pytest.raises(EngineError, match="second template") as caught:
            await ask_openai.collect(engine.url)
        assert engine.requests[-1][::2] == ("/api/show", {"model": "m"})
    assert "TEMPLATE {{ .Prompt }}" in (caught.value.hint or "")


async def test_after_a_failure_the_engine_is_asked_again_who_it_is(serve: Any, ask_openai: Any) -> None:
    other = models("vllm", {"id": "new"})
    async with serve([LLAMA], [("503 S",)], [other], PLAIN_HI) as engine:
        await ask_openai.refused(engine.url)
        await ask_openai.collect(engine.url, {"max_new_tokens": 1})
        assert engine.requests[-1][2]["model"] == "new"


async def test_a_refused_request_says_nothing_against_the_engine(serve: Any, ask_openai: Any) -> None:
    async with serve([LLAMA], [("400 B", {"error": {"message": "no"}})], LLAMA_HI) as engine:
        await ask_openai.refused(engine.url)
        await ask_openai.collect(engine.url)
        assert [path for path, *_ in engine.requests].count("/v1/models") == 1


# ---------------------------------------------------------------- counting, health, info

PIECES = [{"id": 1, "piece": "你"}, {"id": 2, "piece": [229, 165]}, {"id": 3, "piece": [189]}]


@pytest.mark.parametrize(
    ("head", "response", "count", "spans"),
    [
        (
            LLAMA,
            ("200 OK", {"tokens": PIECES}),
            3,
            (TokenSpan(1, "你", 0, 1), TokenSpan(2, "好", 1, 2), TokenSpan(3, "好", 1, 2)),
        ),
        (VLLM, ("200 OK", {"count": 4, "tokens": [1, 2, 3, 4]}), 4, None),
        (VLLM, ("404 N",), None, None),
        (LLAMA, ("501 N",), None, None),
        (LLAMA, ("200 OK", {}), None, None),
    ],
)
async def test_tokens_are_counted_where_the_engine_can(
    serve: Any, ask_openai: Any, head: Any, response: Any, count: int | None, spans: Any
) -> None:
    async with serve([head], [response], [response]) as engine:
        assert await ask_openai.tgi.count_tokens(engine.url, "你好") == count
        assert await ask_openai.tgi.tokenize(engine.url, "你好") == spans
    body = engine.requests[-1][2]
    # llama.cpp counts nothing without ``content``, vLLM refuses to without ``prompt``.
    assert (body["prompt"], body["content"], body["model"]) == ("你好", "你好", "m")


async def test_ollama_cannot_count(serve: Any, ask_openai: Any) -> None:
    async with serve([OLLAMA], [VERSION], [BARE]) as engine:
        assert await ask_openai.tgi.count_tokens(engine.url, "你好") is None
        assert len(engine.requests) == 3


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([("200 OK",)], None),
        ([("404 N",), LLAMA], None),
        ([("503 S", {"error": {"message": "Loading model", "code": 503}})], "Loading model"),
        ([("404 N",), ("404 N",)], "OpenAI's routes"),
        (["CLOSE"], "unreachable"),
    ],
)
async def test_health_is_asked_where_it_is_told(
    serve: Any, ask_openai: Any, script: list[Any], words: str | None
) -> None:
    async with serve(*([one] for one in script)) as engine:
        if words is None:
            await ask_openai.tgi.healthy(engine.url + "/v1", 1.0)
        else:
            with pytest.raises(GatewayError, match=words):
                await ask_openai.tgi.healthy(engine.url, 1.0)
    assert [path for path, *_ in engine.requests] == ["/health", "/v1/models"][: len(script)]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (LLAMA, {"id": "m", "engine": "llama.cpp", "max_total_tokens": 512}),
        (VLLM, {"id": "m", "engine": "vLLM", "max_total_tokens": 4096}),
    ],
)
async def test_info_is_the_engines_record_and_its_room(
    serve: Any, ask_openai: Any, head: Any, expected: dict[str, Any]
) -> None:
    async with serve([head]) as engine:
        info = await ask_openai.tgi.info(engine.url, 1.0)
    assert {name: info.get(name) for name in expected} == expected


async def test_the_kind_is_found_by_its_name() -> None:
    async with open_client() as client:
        engine: EngineClient = ENGINES["openai"](client)
    assert isinstance(engine, OpenAiEngine)
