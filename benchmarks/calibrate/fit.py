"""From the times at which tokens came to what a pass takes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

LEAST_STEPS = 4
"""Fewer steps with all streams running say too little."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One answer: tokens of its input, when it was asked, when each token came. Seconds of one clock."""

    input_tokens: int
    sent_s: float
    arrived_s: tuple[float, ...]

    @property
    def first_s(self) -> float:
        return self.arrived_s[0] - self.sent_s


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a batch, and the tokens behind all its streams in the middle of what was seen."""

    seconds: float
    context_tokens: float


@dataclass(frozen=True, slots=True)
class Line:
    fixed: float
    slope: float


def prefill_line(streams: Sequence[Stream]) -> Line:
    """Time to the first token by length of input: least squares over streams that ran alone."""
    xs = [float(stream.input_tokens) for stream in streams]
    ys = [stream.first_s for stream in streams]
    middle, height = mean(xs), mean(ys)
    spread = sum((x - middle) ** 2 for x in xs)
    if spread == 0:
        raise ValueError("inputs of at least two lengths are needed")
    slope = max(0.0, sum((x - middle) * (y - height) for x, y in zip(xs, ys, strict=True)) / spread)
    return Line(max(0.0, height - slope * middle), slope)


def step_of(streams: Sequence[Stream]) -> Step | None:
    """One step while all of these run: after the last of them has begun, until the first has ended.

    None when they did not run together for long enough.
    """
    begin = max(stream.arrived_s[0] for stream in streams)
    end = min(stream.arrived_s[-1] for stream in streams)
    lengths: list[float] = []
    context = 0.0
    for stream in streams:
        inside = [(index, at) for index, at in enumerate(stream.arrived_s, 1) if begin <= at <= end]
        if len(inside) <= LEAST_STEPS:
            return None
        (first, since), (last, until) = inside[0], inside[-1]
        lengths.append((until - since) / (last - first))
        # A step reads what is there before it gives its token.
        context += stream.input_tokens + (first + last - 1) / 2
    return Step(median(lengths), context)


def context_slope(short: Step, long: Step) -> float:
    """Seconds per step for each token that is behind."""
    more = long.context_tokens - short.context_tokens
    return max(0.0, (long.seconds - short.seconds) / more) if more > 0 else 0.0


def without_context(step: Step, slope: float) -> float:
    """What the step would take with nothing behind."""
    return max(0.0, step.seconds - slope * step.context_tokens)
