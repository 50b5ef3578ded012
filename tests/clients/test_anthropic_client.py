"""Anthropic's own Python client, unmodified, in front of the gateway: sync and async, plain and streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from harness import Running, model, owned, start_echo, start_gateway, until

HELLO = {"role": "user", "content": "hello brave new world"}
# This release of the client has no argument for it any more, and sends it all the same.
GREEDY: dict[str, Any] = {"extra_body": {"temperature": 0}}
ASKED: dict[str, Any] = {"model": "mirror", "max_tokens": 6, "messages": [HELLO], **GREEDY}
LONG: dict[str, Any] = {**ASKED, "model": "slow", "max_tokens": 900}
CLIENT: dict[str, Any] = {"api_key": "right", "max_retries": 0, "timeout": 30}


@dataclass(frozen=True, slots=True)
class Stage:
    """A locked gateway. ``mirror`` answers at once, ``slow`` takes one at a time, ``away`` has to come in
    first, ``frail`` breaks off, and ``gone`` is not there.
    """

    gateway: Running
    slow: Running

    def running_in_engine(self) -> float:
        return self.slow.metric("tgi_batch_current_size")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("anthropic")
    fast, slow = start_echo(folder), start_echo(folder, tokens_per_s=20)
    models = [
        model(fast.url, aliases=["mirror"]),
        model(slow.url, id="slow", limits={"max_concurrent": 1, "max_queue": 0}),
        owned("away", load_s=1),
        owned("frail", fail="mid-stream"),
        model("http://127.0.0.1:1", id="gone"),
    ]
    settings = {"api_key": "right", "heartbeat_s": 0.2, "max_body_bytes": 100_000}
    running = start_gateway(folder, {"models": models}, **settings)
    yield Stage(running, slow)
    running.stop()
    slow.stop()
    fast.stop()


@pytest.fixture
def sync(stage: Stage) -> Iterator[Anthropic]:
    with Anthropic(base_url=stage.gateway.url, **CLIENT) as client:
        yield client


@pytest.fixture
async def asking(stage: Stage) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=stage.gateway.url, **CLIENT) as client:
        yield client


def text_of(message: Any) -> str:
    [block] = message.content
    return str(block.text)


def test_message_is_answered_plain_and_streamed_alike(sync: Anthropic) -> None:
    answer = sync.messages.create(**ASKED)
    events = list(sync.messages.create(**ASKED, stream=True))

    said = [event.delta.text for event in events if event.type == "content_block_delta"]
    assert "".join(said) == text_of(answer)
    assert len(said) > 1
    assert (answer.model, answer.role, answer.stop_reason) == ("echo", "assistant", "max_tokens")
    assert (answer.usage.output_tokens, answer.usage.input_tokens > 0) == (6, True)
    assert answer.id.startswith("msg_")
    assert answer._request_id


def test_stream_helper_collects_the_same_message(sync: Anthropic) -> None:
    answer = sync.messages.create(**ASKED)
    with sync.messages.stream(**ASKED) as stream:
        said = list(stream.text_stream)
        final = stream.get_final_message()

    assert "".join(said) == text_of(final) == text_of(answer)
    assert (final.stop_reason, final.usage.input_tokens) == ("max_tokens", answer.usage.input_tokens)
    assert final.usage.output_tokens == answer.usage.output_tokens
    assert stream.request_id


async def test_async_client_gets_the_same(asking: AsyncAnthropic) -> None:
    answer = await asking.messages.create(**ASKED)
    raw = [event.type async for event in await asking.messages.create(**ASKED, stream=True)]
    async with asking.messages.stream(**ASKED) as stream:
        said = [text async for text in stream.text_stream]
        final = await stream.get_final_message()

    assert [raw[0], raw[-1]] == ["message_start", "message_stop"]
    assert "".join(said) == text_of(final) == text_of(answer)


def test_system_prompt_reaches_the_model(sync: Anthropic) -> None:
    blocks: Any = [{"type": "text", "text": "Be zealous.", "cache_control": {"type": "ephemeral"}}]
    asked: dict[str, Any] = {**ASKED, "max_tokens": 40}

    assert "zealous" not in text_of(sync.messages.create(**asked))
    assert "zealous" in text_of(sync.messages.create(**asked, system="Be zealous."))
    assert "zealous" in text_of(sync.messages.create(**asked, system=blocks))


def test_answer_can_be_sent_back_as_a_turn(sync: Anthropic) -> None:
    answer = sync.messages.create(**ASKED)
    more: Any = [
        HELLO,
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": "zealous"},
    ]

    counts = [
        sync.messages.count_tokens(model="mirror", messages=one).input_tokens for one in ([HELLO], more)
    ]

    assert counts[0] == answer.usage.input_tokens
    assert counts[1] > counts[0] + 6


def test_stop_sequence_is_cut_off_and_named(sync: Anthropic) -> None:
    asked: dict[str, Any] = {**ASKED, "max_tokens": 40, "stop_sequences": ["never", "e ne"]}
    answer = sync.messages.create(**asked)
    with sync.messages.stream(**asked) as stream:
        shown = "".join(stream.text_stream)
        final = stream.get_final_message()

    assert shown == text_of(final) == text_of(answer)
    assert shown.endswith("hello brav")
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "e ne")
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", "e ne")


async def test_tokens_are_counted(asking: AsyncAnthropic) -> None:
    counted = await asking.messages.count_tokens(model="mirror", messages=[HELLO], system="Be brief.")
    answer = await asking.messages.create(**ASKED, system="Be brief.")

    assert counted.input_tokens == answer.usage.input_tokens


def test_stream_waits_for_a_model_that_is_away(sync: Anthropic) -> None:
    with sync.messages.stream(**{**ASKED, "model": "away"}) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()

    assert kinds[:2] == ["message_start", "content_block_start"]
    assert (final.model, final.usage.output_tokens) == ("away", 6)


REFUSED: list[Any] = [
    ({"model": "nope"}, anthropic.NotFoundError, "not_found_error", "There is no model `nope`."),
    ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error", "max_tokens must be"),
    ({"system": "word " * 1500}, anthropic.BadRequestError, "invalid_request_error", "the engine refuses"),
    (
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        anthropic.BadRequestError,
        "invalid_request_error",
        "tools",
    ),
    ({"system": "x" * 200_000}, anthropic.APIStatusError, "request_too_large", "The body is larger"),
    ({"model": "gone"}, anthropic.ServiceUnavailableError, "overloaded_error", "127.0.0.1:1"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("change", "kind", "name", "said"), REFUSED)
def test_refusal_is_the_clients_exception(
    sync: Anthropic,
    change: dict[str, Any],
    kind: type[anthropic.APIStatusError],
    name: str,
    said: str,
    stream: bool,
) -> None:
    with pytest.raises(kind) as caught:
        sync.messages.create(**{**ASKED, **change, "stream": stream})

    assert (caught.value.type, caught.value.request_id is not None) == (name, True)
    assert said in str(caught.value.api_message)


@pytest.mark.parametrize("how", ["x-api-key", "authorization"])
def test_wrong_key_is_an_authentication_error(stage: Stage, how: str) -> None:
    right = {"api_key": "right"} if how == "x-api-key" else {"auth_token": "right", "api_key": None}
    wrong = {name: value and "wrong" for name, value in right.items()}

    with Anthropic(**{**CLIENT, "base_url": stage.gateway.url, **right}) as client:
        assert client.messages.create(**ASKED).usage.output_tokens == 6
    with (
        Anthropic(**{**CLIENT, "base_url": stage.gateway.url, **wrong}) as client,
        pytest.raises(anthropic.AuthenticationError) as caught,
    ):
        client.messages.create(**ASKED)
    assert caught.value.type == "authentication_error"


async def test_full_queue_is_a_rate_limit_error(asking: AsyncAnthropic, stage: Stage) -> None:
    async with asking.messages.stream(**LONG) as stream:
        await anext(aiter(stream))
        with pytest.raises(anthropic.RateLimitError) as caught:
            await asking.messages.create(**LONG)
    assert caught.value.type == "rate_limit_error"
    until(lambda: stage.running_in_engine() == 0, "the engine to stop", timeout_s=3)


def test_failure_in_a_stream_is_the_clients_exception(sync: Anthropic) -> None:
    with (
        pytest.raises(anthropic.APIStatusError) as caught,
        sync.messages.stream(**{**ASKED, "model": "frail", "max_tokens": 50}) as stream,
    ):
        for _ in stream:
            pass
    assert caught.value.type == "api_error"


def test_client_that_leaves_stops_the_engine(sync: Anthropic, stage: Stage) -> None:
    with sync.messages.stream(**LONG) as stream:
        next(iter(stream))
        until(lambda: stage.running_in_engine() == 1, "the engine to begin")
    until(lambda: stage.running_in_engine() == 0, "the engine to stop", timeout_s=3)


async def test_async_client_that_leaves_a_plain_request_stops_the_engine(
    asking: AsyncAnthropic, stage: Stage
) -> None:
    with pytest.raises(anthropic.APITimeoutError):
        await asking.with_options(timeout=1).messages.create(**LONG)

    until(lambda: stage.running_in_engine() == 0, "the engine to stop", timeout_s=3)
