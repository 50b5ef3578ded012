"""Which streams to ask an engine for, and what follows from them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.calibrate import fit
from benchmarks.calibrate.fit import Stream

Ask = Callable[[int, int], Awaitable[Stream]]
"""(tokens of input, tokens wanted) → the answer. The input must be a new one: engines keep what they read."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """``batches`` and ``inputs`` ascend. Inputs of a batch are short, so that reading them is soon done."""

    batches: Sequence[int]
    inputs: Sequence[int]
    short_input: int = 16
    new_tokens: int = 64
    repeats: int = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """The measured part of a preset, in seconds. ``together`` is the largest batch that ran as one."""

    prefill_fixed_s: float
    prefill_s_per_token: float
    context_s_per_token: float
    decode_s: dict[int, float]
    together: int


async def measure(ask: Ask, plan: Plan, say: Say) -> Measured:
    """Raises ValueError when no step could be seen."""
    await ask(plan.short_input, 2)  # what comes first pays for what engines put off until then
    line = await _prefill(ask, plan, say)
    slope = await _context(ask, plan, say)
    decode_s: dict[int, float] = {}
    for batch in plan.batches:
        steps = [await _step(ask, batch, plan.short_input, plan.new_tokens) for _ in range(plan.repeats)]
        seen = [step for step in steps if step is not None]
        if not seen:
            say(f"{batch} streams: they did not run together; it ends here")
            break
        decode_s[batch] = median(fit.without_context(step, slope) for step in seen)
        say(f"{batch} streams: {1000 * decode_s[batch]:.2f} ms per step")
    if not decode_s:
        raise ValueError("no stream gave enough tokens to see a step: ask for more (--new-tokens)")
    return Measured(line.fixed, line.slope, slope, decode_s, max(decode_s))


async def _prefill(ask: Ask, plan: Plan, say: Say) -> fit.Line:
    streams = []
    for tokens in plan.inputs:
        seen = [await ask(tokens, 1) for _ in range(plan.repeats)]
        best = sorted(seen, key=lambda stream: stream.first_s)[len(seen) // 2]
        say(f"input of {best.input_tokens} tokens: {1000 * best.first_s:.1f} ms to the first")
        streams.append(best)
    return fit.prefill_line(streams)


async def _context(ask: Ask, plan: Plan, say: Say) -> float:
    slopes = []
    for _ in range(plan.repeats):
        short = await _step(ask, 1, plan.short_input, plan.new_tokens)
        long = await _step(ask, 1, plan.inputs[-1], plan.new_tokens)
        if short is not None and long is not None:
            slopes.append(fit.context_slope(short, long))
    slope = median(slopes) if slopes else 0.0
    say(f"context: {1e6 * slope:.3f} µs per step and token")
    return slope


async def _step(ask: Ask, batch: int, input_tokens: int, new_tokens: int) -> fit.Step | None:
    streams = await asyncio.gather(*(ask(input_tokens, new_tokens) for _ in range(batch)))
    return fit.step_of(streams)
