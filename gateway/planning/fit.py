"""What a card of so many bytes holds: one model alone, or all of them together. Pure arithmetic.

The rule is Text Generation Inference's: of the card's memory it leaves a tenth alone, and after weights,
the CUDA context and the largest prefill, the KV cache takes ALL the rest. So a card looks full when idle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

USABLE = 0.90
"""TGI's TGI_WIGGLE_ROOM: the part of the card that an engine may plan with. CUDA graphs live in the rest."""
CONTEXT_BYTES = 500_000_000
"""One CUDA context with its libraries, per process."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one model takes before a single token is cached, and what each token takes then, in bytes."""

    model: str
    weights_bytes: int
    activation_bytes: int
    kv_bytes_per_token: int
    max_positions: int
    largest_request_tokens: int
    """The longest request that it must be able to answer: prompt and answer."""

    @property
    def fixed_bytes(self) -> int:
        return CONTEXT_BYTES + self.weights_bytes + self.activation_bytes


@dataclass(frozen=True, slots=True)
class Place:
    """One model on a card, and the limits that go with it."""

    model: str
    fits: bool
    cache_bytes: int
    cache_tokens: int
    memory_fraction: float
    """For ``--cuda-memory-fraction``, when the models are started in the order in which they are listed."""
    footprint_bytes: int
    max_total_tokens: int

    @property
    def requests_at_once(self) -> int:
        """How many of the largest requests are in the cache at the same time."""
        return self.cache_tokens // self.max_total_tokens if self.max_total_tokens else 0


@dataclass(frozen=True, slots=True)
class CardPlan:
    """One card: each model alone on it, and all together if they fit."""

    total_bytes: int
    alone: tuple[Place, ...]
    together: tuple[Place, ...]
    spare_bytes: int
    """What is left for all caches when everybody is resident; below zero: so much is missing."""

    @property
    def co_resident(self) -> bool:
        return len(self.together) > 1 and all(place.fits for place in self.together)


def plan_card(total_bytes: int, needs: Sequence[Need]) -> CardPlan:
    """Lay ``needs`` out on a card. The cache of those that share it is split evenly, in bytes."""
    usable = int(total_bytes * USABLE)
    alone = tuple(_place(need, usable - need.fixed_bytes, 1.0) for need in needs)
    spare = usable - sum(need.fixed_bytes for need in needs)
    share = spare // len(needs) if needs else 0
    together: list[Place] = []
    taken = 0
    for at, need in enumerate(needs):
        taken += need.fixed_bytes + max(0, share)
        last = at == len(needs) - 1
        # An engine counts what its neighbours hold against its own fraction: each one's covers all before it.
        fraction = 1.0 if last else min(1.0, math.ceil(100 * taken / usable) / 100)
        together.append(_place(need, share, fraction))
    return CardPlan(total_bytes, alone, tuple(together), spare)


def _place(need: Need, cache_bytes: int, fraction: float) -> Place:
    tokens = max(0, cache_bytes) // need.kv_bytes_per_token
    fits = tokens >= need.largest_request_tokens
    total = min(need.max_positions, need.largest_request_tokens)
    return Place(
        model=need.model,
        fits=fits,
        cache_bytes=cache_bytes,
        cache_tokens=tokens,
        memory_fraction=fraction,
        footprint_bytes=need.fixed_bytes + max(0, cache_bytes),
        max_total_tokens=total if fits else min(total, tokens),
    )
