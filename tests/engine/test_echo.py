"""What only the echo backend promises: known text, pace, memory and faults."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
from engine_process import Engine, until

from gateway.engine.backend import Job, PromptToken
from gateway.engine.echo import EOS_TEXT, EchoBackend, EchoSettings, speak
from gateway.wire.tgi import GenerateParameters

StartEcho = Callable[..., Engine]


async def _text(prompt: str, max_new_tokens: int, seed: int | None = None, **parameters: Any) -> str:
    tokens = tuple(await EchoBackend(EchoSettings("m")).encode(prompt))
    given = GenerateParameters(max_new_tokens=max_new_tokens, **parameters)
    steps = speak(Job(prompt, tokens, max_new_tokens, seed, given))
    return "".join(step.text for step in steps if not step.special)


@pytest.mark.parametrize(
    ("prompt", "max_new_tokens", "seed", "parameters", "text"),
    [
        ("one two three", 3, None, {}, "one two three"),
        ("one two three", 5, None, {}, "one two three one two"),
        ("one two three", 3, 1, {}, " two three one"),
        ("one two three", 9, None, {"stop": ["two"]}, "one two"),
        ("你好 世界", 6, None, {}, "你好 世界你好"),
        ("<|im_start|>user\nhi<|im_end|>", 2, None, {}, "user\nhi"),
    ],
)
async def test_the_text_is_known_beforehand(
    prompt: str, max_new_tokens: int, seed: int | None, parameters: dict[str, Any], text: str
) -> None:
    assert await _text(prompt, max_new_tokens, seed, **parameters) == text


@pytest.mark.parametrize("text", ["a  b\n\n c", "<|x|> <|y|>z <| |>", "  ", "x" * 50, "中文abc字 é🙂"])
async def test_tokens_lose_no_character(text: str) -> None:
    tokens: list[PromptToken] = list(await EchoBackend(EchoSettings("m")).encode(text))
    assert "".join(token.text for token in tokens) == text


def test_without_a_number_of_tokens_the_prompt_comes_once_and_ends(echo_engine: Engine) -> None:
    *words, last = echo_engine.stream("one two three")
    assert [event["token"]["text"] for event in words] == ["one", " two", " three"]
    assert last["token"] == {"id": 2, "text": EOS_TEXT, "logprob": -0.02, "special": True}
    assert last["generated_text"] == "one two three"
    assert last["details"]["finish_reason"] == "eos_token"


def test_loading_speaks_the_launchers_words_and_binds_the_port_last(start_echo: StartEcho) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started_s = time.monotonic()
    engine = start_echo("--load-s", "0.6", "--port", str(port))
    engine.wait_for_line("Starting shard")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health")
    for words in ("Shard ready in", "Warming up model", "Connected", "phase=ready progress=1"):
        engine.wait_for_line(words)
    assert time.monotonic() - started_s >= 0.6
    assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200


def test_pace_is_as_set(start_echo: StartEcho) -> None:
    pace = ("--first-token-s", "0.2", "--tokens-per-s", "50", "--prefill-tokens-per-s", "20")
    engine = start_echo(*pace).wait_ready()
    body = {"inputs": "one two", "parameters": {"max_new_tokens": 16}}
    sent_s = time.monotonic()
    arrived_s: list[float] = []
    with engine.http.stream("POST", engine.url + "/generate_stream", json=body) as answer:
        arrived_s.extend(time.monotonic() - sent_s for line in answer.iter_lines() if line)
    # None before it is due: 0.2 s, two prompt tokens at 20 a second, then 50 a second. Late are some on a
    # busy machine, but not for ever.
    due_s = [0.3 + index / 50 for index in range(16)]
    assert all(due <= arrived < due + 5 for due, arrived in zip(due_s, arrived_s, strict=True)), arrived_s


def test_memory_is_really_resident(start_echo: StartEcho) -> None:
    engine = start_echo("--memory-bytes", str(150 << 20)).wait_ready()
    assert psutil.Process(engine.process.pid).memory_info().rss > 150 << 20


def test_silence_is_filled_with_comments(start_echo: StartEcho) -> None:
    engine = start_echo("--keep-alive-s", "0.1", "--first-token-s", "0.35").wait_ready()
    body = {"inputs": "one two", "parameters": {"max_new_tokens": 2}}
    frames = engine.post("/generate_stream", body).text.split("\n\n")
    assert frames[:3] == [":", ":", ":"]
    assert frames[3].startswith("data: ")
    assert ":" not in frames[4:]


def test_above_the_limit_requests_are_overloaded(start_echo: StartEcho) -> None:
    engine = start_echo("--max-concurrent", "2", "--first-token-s", "2").wait_ready()
    body = {"inputs": "one", "parameters": {"max_new_tokens": 1}}
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(engine.post, "/generate", body) for _ in range(2)]
        until(lambda: engine.metric("tgi_batch_current_size") == 2)
        expected = {"error": "Model is overloaded", "error_type": "overloaded"}
        plain = engine.post("/generate", body)
        assert (plain.status_code, plain.json()) == (429, expected)
        stream = engine.post("/generate_stream", body)
        assert (stream.status_code, json.loads(stream.text[6:])) == (200, expected)
        assert [one.result().status_code for one in running] == [200, 200]
    assert engine.metric('tgi_request_failure{err="overloaded"}') == 2


def test_failing_to_load_is_an_exit_without_a_port(start_echo: StartEcho) -> None:
    engine = start_echo("--fail", "load")
    assert engine.process.wait(20) == 1
    with pytest.raises(AssertionError, match="ended without"):
        engine.wait_for_line("Listening")


def test_dying_mid_stream_cuts_the_body_after_five_tokens(start_echo: StartEcho) -> None:
    engine = start_echo("--fail", "mid-stream", "--tokens-per-s", "100").wait_ready()
    body = {"inputs": "a b c", "parameters": {"max_new_tokens": 20}}
    seen: list[str] = []
    with (
        pytest.raises(httpx.RemoteProtocolError),
        engine.http.stream("POST", engine.url + "/generate_stream", json=body) as answer,
    ):
        seen.extend(line for line in answer.iter_lines() if line)
    assert len(seen) == 5
    assert engine.process.wait(20) == 1


def test_a_hang_keeps_health_and_comments_but_no_tokens(start_echo: StartEcho) -> None:
    engine = start_echo("--fail", "hang", "--keep-alive-s", "0.05", "--drain-s", "1").wait_ready()
    body = {"inputs": "a b c", "parameters": {"max_new_tokens": 20}}
    with engine.http.stream("POST", engine.url + "/generate_stream", json=body) as answer:
        lines = (line for line in answer.iter_lines() if line)
        seen = [next(lines) for _ in range(8)]
        assert [line == ":" for line in seen] == [False] * 5 + [True] * 3
        assert engine.get("/health").status_code == 200


def test_sigterm_lets_running_requests_finish(start_echo: StartEcho) -> None:
    engine = start_echo("--tokens-per-s", "20").wait_ready()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(engine.stream, "a b c", max_new_tokens=14)
        until(lambda: engine.metric("tgi_batch_current_size") == 1)
        assert engine.end(signal.SIGTERM) == 0
        assert running.result()[-1]["details"]["generated_tokens"] == 14


def test_sigterm_waits_no_longer_than_told(start_echo: StartEcho) -> None:
    engine = start_echo("--fail", "hang", "--drain-s", "1").wait_ready()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(engine.post, "/generate", {"inputs": "a", "parameters": {"max_new_tokens": 9}})
        until(lambda: engine.metric("tgi_batch_current_size") == 1)
        started_s = time.monotonic()
        assert engine.end(signal.SIGTERM) == 0
        assert 0.9 < time.monotonic() - started_s < 6
        assert running.exception() is not None or running.result().status_code == 500


def test_sigterm_while_loading_ends_at_once(start_echo: StartEcho) -> None:
    engine = start_echo("--load-s", "60")
    engine.wait_for_line("Starting shard")
    assert engine.end(signal.SIGTERM, timeout_s=5) == 143


def test_sigterm_can_be_ignored(start_echo: StartEcho) -> None:
    engine = start_echo("--fail", "ignore-sigterm").wait_ready()
    engine.process.send_signal(signal.SIGTERM)
    assert engine.generate("a b", max_new_tokens=2)["generated_text"] == "a b"
    with pytest.raises(subprocess.TimeoutExpired):
        engine.process.wait(0.3)
    assert engine.end(signal.SIGKILL) == -signal.SIGKILL


def test_a_taken_port_is_an_error(start_echo: StartEcho) -> None:
    engine = start_echo().wait_ready()
    second = start_echo("--port", engine.url.rpartition(":")[2])
    assert second.process.wait(20) != 0
    with pytest.raises(AssertionError, match="in use"):
        second.wait_for_line("Listening")


def test_a_hundred_streams_are_all_exact(start_echo: StartEcho) -> None:
    engine = start_echo("--tokens-per-s", "200").wait_ready()
    with ThreadPoolExecutor(100) as pool:
        answers = pool.map(lambda number: engine.stream(f"n{number} b c", max_new_tokens=30), range(100))
        for number, events in enumerate(answers):
            expected = " ".join([f"n{number} b c"] * 10)
            assert (
                events[-1]["generated_text"]
                == "".join(event["token"]["text"] for event in events)
                == expected
            )
