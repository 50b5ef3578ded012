"""A deterministic backend without a model: it repeats the prompt's own words at a set pace.

The text is a function of prompt, ``max_new_tokens``, seed and stop strings alone, so that any layer above
can check it. With ``max_new_tokens`` it says the words over and over and ends with ``length``; without, it
says them once and ends with ``eos_token``. Markers such as ``<|im_start|>`` count as prompt tokens and are
never repeated. Where the text has to follow a JSON schema, it is one line of JSON made of that schema alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
import zlib
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gateway.engine.backend import Job, LoadFailed, PromptToken, Step
from gateway.engine.batch import Batch
from gateway.engine.instances import instance_of
from gateway.engine.speed import Speed
from gateway.wire.tgi import FinishReason, GenerateParameters, token_body

Failure = Literal["none", "load", "mid-stream", "hang", "ignore-sigterm"]
EOS_ID = 2
EOS_TEXT = "<|end|>"
_MARKER = r"<\|[^|<>\s]+\|>"
_WIDE = "[\u3000-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]"
# A marker, one wide character, or a run of other characters, each with the space before it: nothing is lost.
_PIECE = re.compile(rf"{_MARKER}|\s*{_WIDE}|\s*(?:(?!{_WIDE}|{_MARKER})\S){{1,16}}|\s+")
_log = logging.getLogger("text_generation_launcher")


@dataclass(frozen=True, slots=True)
class EchoSettings:
    """Pace and faults. A rate of 0 is unlimited; ``fail_after_tokens`` is for mid-stream and hang.

    With ``speed`` streams share the steps of one batch, and the rates here are not used.
    """

    model_id: str
    load_s: float = 0.0
    first_token_s: float = 0.0
    tokens_per_s: float = 0.0
    prefill_tokens_per_s: float = 0.0
    memory_bytes: int = 0
    fail: Failure = "none"
    fail_after_tokens: int = 5
    speed: Speed | None = None


class EchoBackend:
    """See the module; implements Backend."""

    compute_type = "cpu+echo"

    def __init__(self, settings: EchoSettings) -> None:
        self._settings = settings
        self._memory = bytearray()
        self._batch = Batch(settings.speed, time.monotonic, asyncio.sleep) if settings.speed else None

    async def load(self) -> None:
        """Take ``load_s``, saying what TGI's launcher says. Raises LoadFailed in fail mode ``load``."""
        half_s = self._settings.load_s / 2
        started = time.monotonic()
        speed = self._settings.speed
        if speed is not None:
            _log.info("Speed of %s; it would take %d bytes", self._settings.model_id, speed.memory_bytes)
        _log.info("Starting check and download process for %s", self._settings.model_id)
        _log.info("Files are already present on the host. Skipping download.")
        _log.info("Starting shard rank=0")
        _log.info("Waiting for shard to be ready... rank=0")
        await asyncio.sleep(half_s)
        if self._settings.fail == "load":
            raise LoadFailed("Shard 0 failed to start (--fail load)")
        # Repeating a non-zero byte writes every page, so the memory is really resident.
        self._memory = bytearray(b"\x01") * self._settings.memory_bytes
        _log.info("Shard ready in %.1fs rank=0", time.monotonic() - started)
        _log.info("Starting Webserver")
        _log.info("Warming up model")
        await asyncio.sleep(half_s)
        _log.info("Connected")

    async def close(self) -> None:
        self._memory = bytearray()
        if self._batch is not None:
            await self._batch.close()

    def healthy(self) -> bool:
        return True

    async def encode(self, text: str) -> Sequence[PromptToken]:
        return [
            PromptToken(id=token_id(match.group()), text=match.group(), start=match.start(), stop=match.end())
            for match in _PIECE.finditer(text)
        ]

    async def render_chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Each turn between markers: the words are what people and tools said."""
        return "".join(f"<|{turn['role']}|>{turn['content']}<|end|>" for turn in messages)

    def refusal(self, parameters: GenerateParameters) -> str | None:
        if parameters.grammar is not None:
            return "grammar is not supported"
        if parameters.watermark:
            return "`watermark` is not supported by this engine"
        if parameters.decoder_input_details:
            return "`decoder_input_details` is not supported by this engine"
        return None

    def generate(self, job: Job) -> AsyncGenerator[Step]:
        return self._alone(job) if self._batch is None else self._batched(job, self._batch)

    async def _batched(self, job: Job, batch: Batch) -> AsyncGenerator[Step]:
        steps = list(
            speak(job)
        )  # known beforehand, so that its seat ends on the batch's clock, not the reader's
        seat = batch.enter(len(job.tokens), len(steps))
        try:
            for step in steps:
                await self._misbehave(step.index)
                await seat.token()
                yield step
        finally:
            batch.leave(seat)

    async def _alone(self, job: Job) -> AsyncGenerator[Step]:
        first_due_s = time.monotonic() + self._first_token_s(job)
        interval_s = 1 / self._settings.tokens_per_s if self._settings.tokens_per_s else 0.0
        for step in speak(job):
            await self._misbehave(step.index)
            # Each token has its own due time, so that the pace does not drift with the cost of sending.
            await asyncio.sleep(max(0.0, first_due_s + (step.index - 1) * interval_s - time.monotonic()))
            yield step

    def _first_token_s(self, job: Job) -> float:
        rate = self._settings.prefill_tokens_per_s
        return self._settings.first_token_s + (len(job.tokens) / rate if rate else 0.0)

    async def _misbehave(self, index: int) -> None:
        if index <= self._settings.fail_after_tokens:
            return
        if self._settings.fail == "mid-stream":
            os._exit(1)
        if self._settings.fail == "hang":
            await asyncio.Event().wait()


def token_id(text: str) -> int:
    """Stable across runs and machines; ids below 10 are kept for special tokens."""
    return 10 + zlib.crc32(text.encode()) % 50_000


def speak(job: Job) -> Iterator[Step]:
    """Every step of the answer to ``job``, without any pace."""
    words = _words(job)
    fixed = job.schema is not None
    offset = 0 if job.seed is None or not words or fixed else job.seed % len(words)
    once = fixed or job.parameters.max_new_tokens is None
    said = ""
    for index in range(1, job.max_new_tokens + 1):
        text = _word(words, offset, index) if words and not (once and index > len(words)) else None
        said += text or ""
        finish = _finish(job, index, text, said)
        yield _step(index, text, finish, job.parameters.top_n_tokens)
        if finish is not None:
            return


def _words(job: Job) -> Sequence[str]:
    if job.schema is None:
        return [token.text for token in job.tokens if not re.fullmatch(_MARKER, token.text)]
    return _PIECE.findall(json.dumps(instance_of(job.schema), ensure_ascii=False))


def _word(words: Sequence[str], offset: int, index: int) -> str:
    word = words[(offset + index - 1) % len(words)]
    glued = index > 1 and not word[0].isspace() and re.match(_WIDE, word) is None
    starts_over = (offset + index - 1) % len(words) == 0
    return f" {word}" if glued and starts_over else word


def _finish(job: Job, index: int, text: str | None, said: str) -> FinishReason | None:
    """TGI's order: the length first, then the end token, then stop strings at the very end of the text."""
    if index >= job.max_new_tokens:
        return "length"
    if text is None:
        return "eos_token"
    return "stop_sequence" if any(stop and said.endswith(stop) for stop in job.parameters.stop) else None


def _step(index: int, text: str | None, finish: FinishReason | None, top_n_tokens: int | None) -> Step:
    special = text is None
    shown = EOS_TEXT if text is None else text
    number = EOS_ID if special else token_id(shown)
    logprob = -(number % 100) / 100
    # There is only ever one candidate, so it is the whole list.
    top = [token_body(number, shown, logprob, special=special)] if top_n_tokens else None
    return Step(index, number, shown, logprob, special, top, finish)
