"""Running jobs: who gets in, who waits for a slot, what is counted and timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.engine.backend import Backend, EngineError, GenerationFailed, Job, Overloaded, Step
from gateway.engine.metrics import Gauge, Metrics
from gateway.engine.requests import prepare, random_seed
from gateway.engine.room import Room
from gateway.wire.tgi import GENERATION_SLICE, FinishReason, GenerateRequest, Limits, token_body


@dataclass(slots=True)
class Timing:
    """When one request reached which point, on the monotonic clock."""

    started_s: float = field(default_factory=time.monotonic)
    validated_s: float = 0.0
    running_s: float = 0.0
    ended_s: float = 0.0

    @property
    def total_s(self) -> float:
        return self.ended_s - self.started_s

    @property
    def validation_s(self) -> float:
        return self.validated_s - self.started_s

    @property
    def queue_s(self) -> float:
        return self.running_s - self.validated_s

    @property
    def inference_s(self) -> float:
        return self.ended_s - self.running_s


@dataclass(slots=True)
class Transcript:
    """What one generation has produced so far."""

    job: Job
    steps: list[Step] = field(default_factory=list)

    def add(self, step: Step) -> None:
        self.steps.append(step)

    @property
    def text(self) -> str:
        """``generated_text``: special tokens are listed among the tokens, but are not text."""
        return self.job.inputs + self.said if self.job.parameters.return_full_text else self.said

    @property
    def said(self) -> str:
        """What was generated, without special tokens."""
        return "".join(step.text for step in self.steps if not step.special)

    @property
    def finish_reason(self) -> FinishReason:
        finish = self.steps[-1].finish if self.steps else None
        if finish is None:
            raise GenerationFailed("the engine ended without saying why")
        return finish

    @property
    def generated_tokens(self) -> int:
        return self.steps[-1].index if self.steps else 0

    @property
    def mean_logprob(self) -> float:
        known = [step.logprob for step in self.steps if step.logprob is not None]
        return sum(known) / len(known) if known else float("-inf")

    def stream_details(self) -> dict[str, Any]:
        return {
            "finish_reason": self.finish_reason,
            "generated_tokens": self.generated_tokens,
            "seed": self.job.seed,
            "input_length": len(self.job.tokens),
        }

    def details(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "finish_reason": self.finish_reason,
            "generated_tokens": self.generated_tokens,
            "seed": self.job.seed,
            "prefill": [],
            "tokens": [token_of(step) for step in self.steps],
        }
        if self.job.parameters.top_n_tokens:
            body["top_tokens"] = [list(step.top or ()) for step in self.steps]
        return body


def token_of(step: Step) -> dict[str, Any]:
    return token_body(step.id, step.text, step.logprob, special=step.special)


class Service:
    """One backend, its limits and its slots."""

    def __init__(
        self,
        backend: Backend,
        limits: Limits,
        metrics: Metrics,
        *,
        slots: int,
        batch_tokens: int | None = None,
    ) -> None:
        self.backend = backend
        self.limits = limits
        self.metrics = metrics
        # The queue is here and not in the engine: what waits in llama.cpp cannot be cancelled there, and a
        # crowd that leaves would keep it busy for seconds.
        self._room = Room(slots, batch_tokens)
        self._present = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count one request in and out; how it ended goes to the metrics. Raises Overloaded."""
        self.metrics.requests.add()
        if self._present >= self.limits.max_concurrent_requests:
            self.metrics.failures.add(Overloaded.metric)
            raise Overloaded
        self._present += 1
        try:
            yield
        except EngineError as error:
            self.metrics.failures.add(error.metric)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            self.metrics.failures.add("dropped")
            raise
        finally:
            self._present -= 1

    async def prepare(self, request: GenerateRequest, timing: Timing, *, stream: bool) -> Job:
        job = await prepare(request, self.backend, self.limits, stream=stream)
        timing.validated_s = time.monotonic()
        self.metrics.validation_s.observe(timing.validation_s)
        self.metrics.input_tokens.observe(len(job.tokens))
        self.metrics.max_new_tokens.observe(job.max_new_tokens)
        return job

    async def run(self, job: Job, timing: Timing) -> AsyncGenerator[Step]:
        """Wait for a slot, then generate. Closing the generator frees the slot, waited for or held."""
        # TGI takes room for one slice of a long answer at a time.
        tokens = len(job.tokens) + min(job.max_new_tokens, GENERATION_SLICE)
        with _raised(self.metrics.queued):
            await self._room.enter(tokens)
        try:
            timing.running_s = timing.running_s or time.monotonic()
            with _raised(self.metrics.running):
                async with aclosing(self.backend.generate(job)) as steps:
                    async for step in steps:
                        yield step
        finally:
            self._room.leave(tokens)

    async def complete(self, job: Job, timing: Timing) -> list[Transcript]:
        """Run to the end, ``best_of`` times; the most probable comes first."""
        best_of = job.parameters.best_of or 1
        jobs = [job] if best_of == 1 else [replace(job, seed=random_seed()) for _ in range(best_of)]
        transcripts = await _all([self._transcribe(one, timing) for one in jobs])
        transcripts.sort(key=lambda one: one.mean_logprob, reverse=True)
        self.finished(timing, transcripts[0].generated_tokens)
        return transcripts

    async def _transcribe(self, job: Job, timing: Timing) -> Transcript:
        transcript = Transcript(job)
        async with aclosing(self.run(job, timing)) as steps:
            async for step in steps:
                transcript.add(step)
        return transcript

    def finished(self, timing: Timing, generated_tokens: int) -> None:
        timing.ended_s = time.monotonic()
        self.metrics.successes.add()
        self.metrics.total_s.observe(timing.total_s)
        self.metrics.queue_s.observe(timing.queue_s)
        self.metrics.inference_s.observe(timing.inference_s)
        self.metrics.per_token_s.observe(timing.inference_s / max(1, generated_tokens))
        self.metrics.generated_tokens.observe(generated_tokens)


async def _all(work: list[Coroutine[Any, Any, Transcript]]) -> list[Transcript]:
    """Run together. The first failure ends the others and is raised as itself, not inside a group."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _raised(gauge: Gauge) -> Iterator[None]:
    gauge.value += 1
    try:
        yield
    finally:
        gauge.value -= 1
