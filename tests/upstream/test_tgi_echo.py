"""The client against the echo engine as a process of its own: nothing scripted on either side."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from gateway.errors import EngineTimeout, InvalidRequest
from gateway.schemas import Completed, Prompt, Token
from gateway.upstream.base import SuspectEngineError

START_S = 30.0
DEADLINE_S = 10.0
PROMPT = Prompt("你好 world, once more", ("<|im_end|>",))


@asynccontextmanager
async def echo(*options: str) -> AsyncIterator[str]:
    command = ["-m", "gateway.engine", "--backend", "echo", "--model-id", "x", "--port", "0", *options]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    said = b""
    try:
        async with asyncio.timeout(START_S):
            while (found := re.search(rb"Listening on (http://\S+)", said)) is None:
                line = await process.stderr.readline()
                assert line, said.decode()
                said += line
        yield found[1].decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_streamed_and_collected_answers_agree(ask: Any) -> None:
    async with echo() as url:
        pieces = await ask.collect(url, prompt=PROMPT)
        [collected] = await ask.collect(url, prompt=PROMPT, tokens=False)
        plain = await ask.tgi.generate(url, PROMPT, {}, ask.clocks({}))
        count = await ask.tgi.count_tokens(url, PROMPT.text)
        await ask.tgi.healthy(url, DEADLINE_S)
        info = await ask.tgi.info(url, DEADLINE_S)
        with pytest.raises(InvalidRequest) as refused:
            await ask.collect(url, {"max_new_tokens": 100_000, "top_p": 1.0}, prompt=PROMPT)
    tokens = [piece for piece in pieces if isinstance(piece, Token)]
    assert "".join(token.text for token in tokens if not token.special) == collected.text
    assert pieces[-1] == collected
    assert (collected.text, collected.completion_tokens) == (plain.text, plain.completion_tokens)
    assert collected.completion_tokens == len(tokens)
    assert collected.prompt_tokens == plain.prompt_tokens == count
    assert collected.finish_reason == plain.finish_reason == "eos_token"
    assert info["model_id"] == "x"
    assert refused.value.field == "parameters.top_p"


async def test_the_engine_stops_generating_when_we_leave(ask: Any) -> None:
    async with echo("--tokens-per-s", "50") as url, httpx.AsyncClient(trust_env=False) as prometheus:
        async with ask.stream(url, {"max_new_tokens": 2000}, prompt=PROMPT) as pieces:
            assert isinstance(await anext(pieces), Token)
            assert await _running(prometheus, url) == 1
        async with asyncio.timeout(DEADLINE_S):
            while await _running(prometheus, url):
                pass


@pytest.mark.parametrize(
    ("fault", "limits", "expected", "words"),
    [
        ("mid-stream", {}, SuspectEngineError, "after 3 tokens"),
        ("hang", {"between_tokens_s": 0.3}, EngineTimeout, "3 tokens came"),
    ],
)
async def test_a_fault_of_the_engine_comes_after_the_tokens_that_came(
    ask: Any, fault: str, limits: dict[str, float], expected: type[Exception], words: str
) -> None:
    async with echo("--fail", fault, "--fail-after-tokens", "3", "--tokens-per-s", "20") as url:
        seen: list[Token | Completed] = []
        with pytest.raises(expected, match=words):
            await _read(ask.stream(url, {"max_new_tokens": 50}, prompt=PROMPT, limits=limits), seen)
    assert len(seen) == 3


async def _read(stream: Any, seen: list[Token | Completed]) -> None:
    async with stream as pieces:
        async for piece in pieces:
            seen.append(piece)  # noqa: PERF401 - what came before the error is wanted


async def _running(client: httpx.AsyncClient, url: str) -> int:
    text = (await client.get(f"{url}/metrics")).text
    found = re.search(r"^tgi_batch_current_size (\S+)", text, re.MULTILINE)
    return int(float(found[1])) if found else 0
