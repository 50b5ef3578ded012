"""What is known of each arm of each split: how many, how long, what went wrong, what it cost.

Kept in memory since the start or the last reset, bounded: counts, and a sample of each figure.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.answers import Answer, Receipt
from gateway.config import AliasSpec, Registry
from gateway.quantiles import Reservoir
from gateway.routing import Origin

SAMPLE_SIZE: Final = 4096
"""Values kept per arm and figure: 32 KiB. At this size the interval of a p99 reaches from p98.7 to p99.3."""
FIGURES: Final = ("first_token_ms", "total_ms", "tokens_per_second")
COLD_FIGURES: Final = ("load_ms", "total_ms")


@dataclass(frozen=True, slots=True)
class Load:
    """One start of an engine: when it was complete, on a clock of the caller's, and how long it took."""

    ended_at: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Seen:
    """How one generation went.

    ``outcome`` is ``ok``, ``client_gone`` or the type of an error. ``streamed`` is whether the first token
    could be seen. ``load`` is the last one that it waited for, ``load_wait_s`` the seconds of all such waits.
    """

    origin: Origin
    outcome: str
    answer: Answer | None = None
    streamed: bool = True
    load: Load | None = None
    load_wait_s: float = 0.0


class Arm:
    """The book of one arm."""

    def __init__(self, model: str, weight: float, dice: random.Random) -> None:
        self.model = model
        self.weight = weight
        self.requests = self.answered = self.cancelled = self.fell_back = self.cold_starts = 0
        self.errors: Counter[str] = Counter()
        self.completion_tokens = 0
        self.warm = {name: Reservoir(SAMPLE_SIZE, dice) for name in FIGURES}
        self.cold = {name: Reservoir(SAMPLE_SIZE, dice) for name in COLD_FIGURES}
        self.loads = 0
        self.load_s = self.load_wait_s = 0.0
        self._last_load: float | None = None

    def record(self, seen: Seen) -> None:
        self.requests += 1
        self._outcome(seen)
        if seen.load is not None:
            self.cold_starts += 1
            self.load_wait_s += seen.load_wait_s
            self._load(seen.load)
        # What another model answered says nothing about this one's speed.
        if seen.answer is not None and seen.origin.fallback_from is None:
            self.completion_tokens += seen.answer.completion_tokens
            self._measure(seen, seen.answer.receipt, seen.answer.completion_tokens)

    def _outcome(self, seen: Seen) -> None:
        if seen.outcome == "client_gone":
            self.cancelled += 1
        elif seen.outcome != "ok":
            self.errors[seen.outcome] += 1
        elif seen.origin.fallback_from is not None:
            self.fell_back += 1
        else:
            self.answered += 1

    def _load(self, load: Load) -> None:
        """All who waited for the same load bring it along; it is counted once."""
        if self._last_load is None or load.ended_at > self._last_load:
            self._last_load = load.ended_at
            self.loads += 1
            self.load_s += load.seconds

    def _measure(self, seen: Seen, receipt: Receipt, tokens: int) -> None:
        if seen.load is not None:
            self.cold["load_ms"].add(receipt.load_ms)
            self.cold["total_ms"].add(receipt.total_ms)
            return
        self.warm["total_ms"].add(receipt.total_ms)
        if not seen.streamed:
            return  # nobody saw the first token
        self.warm["first_token_ms"].add(receipt.prefill_ms)
        if tokens > 1 and receipt.decode_ms > 0:
            # The first token came with the prefill.
            self.warm["tokens_per_second"].add(1000 * (tokens - 1) / receipt.decode_ms)


@dataclass(slots=True)
class Experiment:
    """One split alias and the books of its arms."""

    alias: str
    spec: AliasSpec
    dice: random.Random
    since: float = 0.0
    arms: Mapping[str, Arm] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was seen, and begin anew."""
        self.since = time.time()
        weights = self.spec.split or {}
        self.arms = {model: Arm(model, weight, self.dice) for model, weight in weights.items()}


class Experiments:
    """Every split alias of the registry is one."""

    def __init__(self, registry: Registry) -> None:
        dice = random.Random()  # noqa: S311  it chooses which values to keep
        self._all = {name: Experiment(name, alias, dice) for name, alias in registry.splits().items()}

    def all(self) -> Mapping[str, Experiment]:
        return self._all

    def record(self, seen: Seen) -> None:
        """Note how a generation went. One that went through no split is nobody's."""
        if seen.origin.alias is not None:
            self._all[seen.origin.alias].arms[seen.origin.arm].record(seen)
