"""The engine kind ``openai`` against llama.cpp's own server, alone and behind a whole gateway."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import Running, events_of, free_port, until

from gateway.engine.weights import Q4_1_FILE, cache_folder
from gateway.errors import InvalidRequest
from gateway.schemas import Prompt, Token
from gateway.upstream.transport import EngineHttp

MODEL = cache_folder() / Q4_1_FILE
SERVER = Path(__file__).parent.parent / "llama_server.py"
CONTEXT = 256
pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(not MODEL.is_file(), reason="the small model is not there: make fetch-model"),
]
QUESTION = Prompt(
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n", ("<|im_end|>",)
)
ANSWER = "The capital of France is Paris."
COUNTING = Prompt(" ".join(str(number) for number in range(70)))
PATIENT = {"first_token_s": 30.0, "between_tokens_s": 30.0, "total_s": 30.0}
"""The machine may have other things to do."""


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    """The address of a server with two slots."""
    port = free_port()
    # Spinning threads collapse as soon as another process wants the processor.
    env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(SERVER), str(MODEL), str(port), "2", str(CONTEXT)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    assert process.stdout is not None
    assert process.stdout.readline(), f"it ended with {process.wait()}"
    yield f"http://127.0.0.1:{port}"
    process.communicate(timeout=20)


@pytest.fixture
def ask_openai(client: httpx.AsyncClient, ask_openai: Any) -> Any:
    """Each question on a connection of its own, where nothing else would take the place of a kept one."""
    # This server ends some of them behind a streamed answer; httpx's transport does not ask again.
    if not isinstance(client, EngineHttp):
        client.headers["connection"] = "close"
    return ask_openai


def busy_slots(url: str) -> int:
    return sum(slot["is_processing"] for slot in httpx.get(f"{url}/slots", timeout=10).json())


async def test_a_greedy_answer_is_streamed_as_tgi_would(llama: str, ask_openai: Any) -> None:
    *tokens, done = await ask_openai.collect(llama, {"max_new_tokens": 20}, limits=PATIENT, prompt=QUESTION)
    assert "".join(token.text for token in tokens) == done.text == ANSWER
    assert (done.finish_reason, done.completion_tokens, done.prompt_tokens) == ("eos_token", 8, 16)
    assert all(isinstance(token.id, int) and token.logprob <= 0 for token in tokens)
    assert [token.special for token in tokens] == [False] * 7 + [True]
    assert tokens[-1].last


async def test_a_plain_answer_is_the_same(llama: str, ask_openai: Any) -> None:
    parameters = {"max_new_tokens": 20}
    done = await ask_openai.generate(llama, parameters, PATIENT)
    [collected] = await ask_openai.collect(llama, parameters, limits=PATIENT, tokens=False)
    assert (done.text, done.completion_tokens) == (collected.text, collected.completion_tokens)


async def test_the_length_is_kept(llama: str, ask_openai: Any) -> None:
    *tokens, done = await ask_openai.collect(llama, {"max_new_tokens": 3}, limits=PATIENT, prompt=QUESTION)
    assert (done.text, done.finish_reason, done.completion_tokens) == ("The capital of", "length", 3)
    assert [token.last for token in tokens] == [False, False, True]


async def test_without_a_length_the_answer_goes_on_to_the_end_of_the_context(
    llama: str, ask_openai: Any
) -> None:
    [done] = await ask_openai.collect(llama, limits=PATIENT, prompt=COUNTING, tokens=False)
    assert done.finish_reason == "length"
    assert done.prompt_tokens + done.completion_tokens == CONTEXT


@pytest.mark.parametrize("stop", ["Paris", "l of Fr"])
async def test_a_stop_string_is_named_kept_and_ends_the_engines_work(
    llama: str, ask_openai: Any, stop: str
) -> None:
    *tokens, done = await ask_openai.collect(
        llama, {"max_new_tokens": 20, "stop": [stop, "nowhere"]}, limits=PATIENT, prompt=QUESTION
    )
    until_stop = ANSWER[: ANSWER.index(stop) + len(stop)]
    assert (done.text, done.finish_reason) == (until_stop, "stop_sequence")
    assert "".join(token.text for token in tokens) == until_stop
    assert done.completion_tokens == len(tokens)
    until(lambda: busy_slots(llama) == 0, "the slot to be free")


async def test_a_seed_repeats_its_answer_and_is_reported(llama: str, ask_openai: Any) -> None:
    drawn = {"max_new_tokens": 12, "temperature": 1.3, "top_k": 50, "top_p": 0.95}
    answers = [
        (await ask_openai.collect(llama, {**drawn, "seed": seed}, limits=PATIENT, prompt=Prompt("Once")))[-1]
        for seed in (7, 7, 8)
    ]
    assert answers[0].text == answers[1].text != answers[2].text
    assert [done.seed for done in answers] == [7, 7, 8]


async def test_characters_of_several_tokens_arrive_whole_and_are_counted_as_tokens(
    llama: str, ask_openai: Any
) -> None:
    *tokens, done = await ask_openai.collect(
        llama, {"max_new_tokens": 6}, limits=PATIENT, prompt=Prompt("你好，🙂🙂")
    )
    assert "".join(token.text for token in tokens) == done.text
    assert "\ufffd" not in done.text
    assert done.completion_tokens == 6 > len(tokens)


async def test_a_json_schema_is_followed_and_one_that_cannot_be_is_refused(
    llama: str, ask_openai: Any
) -> None:
    schema: dict[str, Any] = {"properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    grammar = {"type": "json", "value": schema}
    [done] = await ask_openai.collect(
        llama, {"max_new_tokens": 30, "grammar": grammar}, limits=PATIENT, prompt=QUESTION, tokens=False
    )
    assert done.text.replace(" ", "").replace("\n", "") == '{"city":"Paris"}'
    schema["properties"]["city"] = {"$ref": "#/nowhere"}
    with pytest.raises(InvalidRequest) as caught:
        await ask_openai.collect(
            llama, {"max_new_tokens": 30, "grammar": grammar}, limits=PATIENT, prompt=QUESTION
        )
    assert caught.value.field == "parameters.grammar"


async def test_likeliest_tokens_are_given(llama: str, ask_openai: Any) -> None:
    first, *_ = await ask_openai.collect(
        llama, {"max_new_tokens": 2, "top_n_tokens": 3}, limits=PATIENT, prompt=QUESTION
    )
    assert len(first.top) == 3
    assert first.top[0].text == first.text == "The"


async def test_tokens_are_counted_and_laid_over_the_text(llama: str, ask_openai: Any) -> None:
    text = "Hi <|im_end|>你好🙂"
    spans = await ask_openai.tgi.tokenize(llama, text)
    assert await ask_openai.tgi.count_tokens(llama, text) == len(spans) == 9
    assert [text[span.start : span.stop] for span in spans] == [span.text for span in spans]
    assert [span.text for span in spans][2] == "<|im_end|>"


async def test_the_engine_says_what_it_is(llama: str, ask_openai: Any) -> None:
    await ask_openai.tgi.healthy(llama, 5.0)
    info = await ask_openai.tgi.info(llama, 5.0)
    assert (info["engine"], info["max_total_tokens"]) == ("llama.cpp", CONTEXT)


async def test_a_prompt_that_is_too_long_is_refused(llama: str, ask_openai: Any) -> None:
    with pytest.raises(InvalidRequest, match="exceeds the available context") as caught:
        await ask_openai.collect(llama, limits=PATIENT, prompt=Prompt("hello " * CONTEXT))
    assert caught.value.field == "inputs"


async def test_a_caller_that_leaves_frees_the_slot(llama: str, ask_openai: Any) -> None:
    async with ask_openai.stream(llama, limits=PATIENT, prompt=COUNTING) as pieces:
        assert isinstance(await anext(pieces), Token)
        assert busy_slots(llama) == 1
    until(lambda: busy_slots(llama) == 0, "the slot to be free")


# ---------------------------------------------------------------- behind a gateway


def test_the_native_dialect_works_unchanged(llama: str, gateway: Callable[..., Running]) -> None:
    record = {"id": "small", "family": "smollm2", "engine": "openai", "url": llama}
    running = gateway({"models": [record]})
    until(lambda: running.get("/ready").status_code == 200, "the model to be ready")
    asked = {
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "parameters": {"max_new_tokens": 20, "do_sample": False},
    }
    body = httpx.post(f"{running.url}/v1/generate", json=asked, timeout=30).json()
    assert "Paris" in body["generated_text"] or body["usage"]["completion_tokens"] == 20
    assert body["usage"]["prompt_tokens"] > 16  # with the family's own system prompt
    assert body["model_id"] == "small"

    refused = httpx.post(
        f"{running.url}/v1/generate",
        json={**asked, "parameters": {"watermark": True}},
        timeout=30,
    )
    error = refused.json()["error"]
    assert (refused.status_code, error["field"]) == (422, "parameters.watermark")
    assert "openai" in error["message"]


async def test_the_native_stream_works_unchanged(llama: str, gateway: Callable[..., Running]) -> None:
    record = {"id": "small", "family": "smollm2", "engine": "openai", "url": f"{llama}/v1"}
    running = gateway({"models": [record]})
    asked = {
        "inputs": QUESTION.text,
        "scenario": "raw",
        "parameters": {"max_new_tokens": 20, "do_sample": False, "stop": ["Paris"]},
        "stream": True,
    }
    async with (
        httpx.AsyncClient(timeout=30) as client,
        client.stream("POST", f"{running.url}/v1/generate", json=asked) as response,
    ):
        events = [event async for event in events_of(response) if event.name != ":"]
    assert [event.name for event in events[-2:]] == ["token", "done"]
    assert "".join(event.data["text"] for event in events[:-1]) == "The capital of France is Paris"
    done = events[-1].data
    assert (done["generated_text"], done["finish_reason"]) == (
        "The capital of France is Paris",
        "stop_sequence",
    )
    assert done["usage"] == {"prompt_tokens": 16, "completion_tokens": 6, "total_tokens": 22}


def test_tgis_dialect_works_unchanged(llama: str, gateway: Callable[..., Running]) -> None:
    record = {"id": "small", "family": "smollm2", "engine": "openai", "url": llama}
    running = gateway({"models": [record]})
    until(lambda: running.get("/ready").status_code == 200, "the model to be ready")
    asked = {"inputs": QUESTION.text, "parameters": {"max_new_tokens": 3, "details": True}}
    body = httpx.post(f"{running.url}/generate", json=asked, timeout=30).json()
    assert body["generated_text"] == "The capital of"
    details = body["details"]
    assert (details["finish_reason"], details["generated_tokens"]) == ("length", 3)
    assert [token["text"] for token in details["tokens"]] == ["The", " capital", " of"]
    tokens = httpx.post(f"{running.url}/tokenize", json={"inputs": "你好"}, timeout=30).json()
    assert {token["text"] for token in tokens} == {"你", "好"}
