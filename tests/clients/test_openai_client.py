"""OpenAI's own Python client, unmodified, in front of the gateway: sync and async, plain and streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from harness import Running, model, owned, until
from openai import AsyncOpenAI, OpenAI

WORDS = [{"role": "user", "content": "hello brave new world"}]
ASKED: dict[str, Any] = {"model": "echo", "messages": WORDS, "max_tokens": 6, "seed": 7}
CLIENT: dict[str, Any] = {"api_key": "unused", "max_retries": 0, "timeout": 30}
LONG = {"role": "user", "content": "word " * 200}


@pytest.fixture
def sync(served: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", **CLIENT) as client:
        yield client


@pytest.fixture
async def asking(served: Running) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{served.url}/v1", **CLIENT) as client:
        yield client


def test_models_are_listed_and_found(sync: OpenAI) -> None:
    listed = sync.models.list()

    assert [one.id for one in listed] == ["echo", "llama"]
    assert sync.models.retrieve("mirror").id == "echo"


def test_chat_is_answered_plain_and_streamed_alike(sync: OpenAI) -> None:
    answer = sync.chat.completions.create(**ASKED)
    with sync.chat.completions.create(**ASKED, stream=True) as stream:
        parts = list(stream)

    [choice] = answer.choices
    assert choice.message.role == parts[0].choices[0].delta.role == "assistant"
    assert "".join(part.choices[0].delta.content or "" for part in parts) == choice.message.content
    assert choice.finish_reason == parts[-1].choices[0].finish_reason == "length"
    assert answer.id.startswith("chatcmpl-")
    assert len({part.id for part in parts}) == 1
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6
    assert (answer.model_extra or {})["receipt"]["total_ms"] > 0
    assert (parts[-1].model_extra or {})["receipt"]["total_ms"] > 0


async def test_async_chat_is_answered_plain_and_streamed_alike(asking: AsyncOpenAI) -> None:
    answer = await asking.chat.completions.create(**ASKED)
    stream = await asking.chat.completions.create(
        **ASKED, stream=True, stream_options={"include_usage": True}
    )
    async with stream:
        parts = [part async for part in stream]

    texts = [part.choices[0].delta.content or "" for part in parts if part.choices]
    assert "".join(texts) == answer.choices[0].message.content
    assert parts[-1].choices == []
    assert parts[-1].usage == answer.usage


def test_stream_helper_puts_the_whole_answer_together(sync: OpenAI) -> None:
    asked = {**ASKED, "max_tokens": 50, "stop": "world"}  # the helper takes no answer that was cut short
    with sync.chat.completions.stream(**asked) as stream:
        final = stream.get_final_completion()

    plain = sync.chat.completions.create(**asked)
    assert final.choices[0].message.content == plain.choices[0].message.content
    assert final.choices[0].finish_reason == "stop"


def test_same_seed_gives_the_same_text_and_choices_differ(sync: OpenAI) -> None:
    first, again = (sync.chat.completions.create(**ASKED, temperature=1, n=2) for _ in range(2))

    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) == 2
    assert first.system_fingerprint == again.system_fingerprint


def test_stop_string_is_not_in_the_text(sync: OpenAI) -> None:
    answer = sync.chat.completions.create(**{**ASKED, "max_tokens": 50}, stop="world")

    assert answer.choices[0].finish_reason == "stop"
    assert "world" not in (answer.choices[0].message.content or "")


def test_logprobs_are_parsed(sync: OpenAI) -> None:
    [choice] = sync.chat.completions.create(**ASKED, logprobs=True, top_logprobs=1).choices

    assert choice.logprobs is not None
    entries = choice.logprobs.content or []
    assert "".join(entry.token for entry in entries) == choice.message.content
    assert all(entry.top_logprobs[0].logprob == entry.logprob for entry in entries)


def test_text_is_completed_plain_and_streamed_alike(sync: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "echo", "prompt": "alpha beta", "max_tokens": 4, "seed": 0}
    answer = sync.completions.create(**asked)
    with sync.completions.create(**asked, stream=True) as stream:
        parts = list(stream)

    assert answer.choices[0].text == "alpha beta alpha beta"
    assert "".join(part.choices[0].text for part in parts) == "alpha beta alpha beta"


async def test_text_is_completed_by_the_async_client(asking: AsyncOpenAI) -> None:
    answer = await asking.completions.create(model="echo", prompt=["one two", "three"], max_tokens=2)

    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3


def test_scenario_is_passed_as_an_extra_field(sync: OpenAI) -> None:
    answer = sync.chat.completions.create(
        **{**ASKED, "max_tokens": 200}, stop="new", extra_body={"scenario": "qa"}
    )

    assert "Question: hello brave" in (answer.choices[0].message.content or "")


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("more", "error", "code"),
    [
        ({"model": "nope"}, openai.NotFoundError, "model_not_found"),
        ({"temperature": 5}, openai.UnprocessableEntityError, None),
        ({"presence_penalty": 1}, openai.UnprocessableEntityError, "unsupported_parameter"),
        (
            {"functions": [{"name": "f"}]},
            openai.UnprocessableEntityError,
            "unsupported_parameter",
        ),
        (
            {"messages": [{**LONG, "content": "word " * 3000}]},
            openai.UnprocessableEntityError,
            "context_length_exceeded",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_clients_own(
    sync: OpenAI, more: dict[str, Any], error: type[openai.APIStatusError], code: str | None, stream: bool
) -> None:
    with pytest.raises(error) as raised:
        sync.chat.completions.create(**{**ASKED, **more}, stream=stream)

    assert raised.value.code == code
    assert raised.value.param == next(iter(more))


def test_unknown_model_is_not_found(sync: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        sync.models.retrieve("nope")


def test_what_is_not_offered_is_not_retried(served: Running) -> None:
    before = served.metric("gateway_http_requests_total")
    with (
        OpenAI(base_url=f"{served.url}/v1", **{**CLIENT, "max_retries": 3}) as client,
        pytest.raises(openai.InternalServerError) as raised,
    ):
        client.embeddings.create(model="echo", input="x")

    assert (raised.value.status_code, raised.value.code) == (501, "not_offered")
    # The request that reads the metric counted at its end, so it is in the second reading alone.
    assert served.metric("gateway_http_requests_total") - before == 2


def test_wrong_key_is_an_authentication_error(fast_engine: Running, gateway: Any) -> None:
    running = gateway({"models": [model(fast_engine.url)]}, api_key="right")
    with OpenAI(base_url=f"{running.url}/v1", **CLIENT) as client, pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(**ASKED)
    with OpenAI(base_url=f"{running.url}/v1", **{**CLIENT, "api_key": "right"}) as client:
        assert client.chat.completions.create(**ASKED).choices


async def test_full_engine_is_a_rate_limit(echo: Any, gateway: Any) -> None:
    engine = echo(tokens_per_s=20, max_concurrent=1)
    running = gateway({"models": [model(engine.url)]})
    async with AsyncOpenAI(base_url=f"{running.url}/v1", **CLIENT) as client:
        asked = {**ASKED, "messages": [LONG], "max_tokens": 400}
        async with await client.chat.completions.create(**asked, stream=True) as stream:
            await anext(aiter(stream))
            with pytest.raises(openai.RateLimitError) as raised:
                await client.chat.completions.create(**ASKED)

    assert raised.value.code == "rate_limit_exceeded"


async def test_failure_in_the_middle_of_a_stream_is_an_error_of_the_client(echo: Any, gateway: Any) -> None:
    with_fault = echo(fail="mid-stream")
    running = gateway({"models": [model(with_fault.url)]})
    said: list[str | None] = []

    async def read(client: AsyncOpenAI) -> None:
        asked = {**ASKED, "max_tokens": 20}
        async with await client.chat.completions.create(**asked, stream=True) as stream:
            async for part in stream:
                said.append(part.choices[0].delta.content)  # noqa: PERF401  kept when it breaks off

    async with AsyncOpenAI(base_url=f"{running.url}/v1", **CLIENT) as client:
        with pytest.raises(openai.APIError) as raised:
            await read(client)

    assert len(said) > 1
    assert raised.value.type == "server_error"
    assert "truncated" in raised.value.message


# ---------------------------------------------------------------- leaving and waiting


@pytest.mark.parametrize("n", [1, 2])
async def test_client_that_leaves_a_stream_stops_the_engine(echo: Any, gateway: Any, n: int) -> None:
    engine = echo(tokens_per_s=20)
    running = gateway({"models": [model(engine.url)]})
    asked = {**ASKED, "messages": [LONG], "max_tokens": 400, "n": n}
    async with AsyncOpenAI(base_url=f"{running.url}/v1", **CLIENT) as client:
        async with await client.chat.completions.create(**asked, stream=True) as stream:
            await anext(aiter(stream))
            await asyncio.to_thread(until, lambda: engine.metric("tgi_batch_current_size") == n, "the engine")
        gone = lambda: engine.metric("tgi_batch_current_size") == 0  # noqa: E731
        await asyncio.to_thread(until, gone, "the engine to stop", 3)
    await asyncio.to_thread(until, lambda: running.metric("gateway_generations_open") == 0, "the places")


async def test_client_that_leaves_a_plain_request_stops_the_engine(echo: Any, gateway: Any) -> None:
    engine = echo(tokens_per_s=20)
    running = gateway({"models": [model(engine.url)]})
    asked = {**ASKED, "messages": [LONG], "max_tokens": 400, "n": 2}
    async with AsyncOpenAI(base_url=f"{running.url}/v1", **CLIENT) as client:
        waiting = asyncio.create_task(client.chat.completions.create(**asked))
        await asyncio.to_thread(until, lambda: engine.metric("tgi_batch_current_size") == 2, "the engine")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.to_thread(until, lambda: engine.metric("tgi_batch_current_size") == 0, "the end", 3)
    await asyncio.to_thread(until, lambda: running.metric("gateway_generations_open") == 0, "the places")


async def test_stream_outlasts_a_switch_of_models(gateway: Any) -> None:
    """While the other model comes in, the stream holds comments alone; the client reads on."""
    models = [owned(name, memory_bytes=150 * 2**20, load_s=1) | {"memory": "200MiB"} for name in ("a", "b")]
    devices = [{"id": "ram", "memory": "300MiB", "reader": "process"}]
    switching = {"max_wait_s": 2, "min_residency_s": 0.3}
    registry = {"models": models, "devices": devices, "switching": switching}
    running = gateway(registry, heartbeat_s=0.2)
    async with AsyncOpenAI(base_url=f"{running.url}/v1", **CLIENT) as client:
        for name in ("a", "b"):
            stream = await client.chat.completions.create(**{**ASKED, "model": name}, n=2, stream=True)
            async with stream:
                parts = [part async for part in stream]

            assert {part.model for part in parts} == {name}
            assert {choice.index for part in parts for choice in part.choices} == {0, 1}
            assert (parts[-1].model_extra or {})["receipt"]["load_ms"] > 500
