"""Who answers a request for an alias that is split over several models. Pure, but for what ``Blocks`` counts.

Three ways, and ``docs/adr/0010-who-answers-a-split.md`` gives the reasons:

1. ``arm_of_key``  Whoever brings a key stays with one model, as long as the weights do.
2. ``arm_by_lot``  Everybody else is drawn by weight, each request anew.
3. ``Blocks``      Where the models do not fit together, such requests are drawn in turns that last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

NO_ARM: Final = "none"
"""Instead of an arm, for requests that went through no split."""


def arm_of_key(alias: str, key: str, weights: Mapping[str, float]) -> str:
    """The arm of a key: by weighted rendezvous hashing.

    Each arm's score depends on nothing but the key, the arm and its own weight. So when a weight changes,
    keys move to the arm that gained or from the one that lost, and between no others.
    """
    return max(weights, key=lambda arm: (_score(alias, key, arm, weights[arm]), arm))


def _score(alias: str, key: str, arm: str, weight: float) -> float:
    return -weight / math.log(_unit(alias, key, arm))


def _unit(*parts: str) -> float:
    """A number between 0 and 1, both excluded, that looks drawn and is always the same for ``parts``."""
    digest = blake2b(digest_size=8)
    for part in parts:
        text = part.encode("utf-8", "surrogatepass")
        # With its length in front, ("ab", "c") is not ("a", "bc").
        digest.update(len(text).to_bytes(8, "big") + text)
    # With one bit more than 52, rounding could give 1.
    return ((int.from_bytes(digest.digest(), "big") >> 12) + 0.5) / 2**52


def arm_by_lot(weights: Mapping[str, float], lot: float) -> str:
    """The arm for a ``lot`` that was drawn evenly from 0 up to 1."""
    left = lot * math.fsum(weights.values())
    arm = ""
    for arm, weight in weights.items():  # noqa: B007  the last one counts where rounding leaves a rest
        left -= weight
        if left < 0:
            break
    return arm


@dataclass(slots=True)
class Blocks:
    """Turns for arms of which each costs a load.

    An arm keeps its turn until it is ``size`` requests ahead of its share; then comes whoever is furthest
    behind. So there is never more than one change in ``size`` requests, and no arm is ever more than ``size``
    requests ahead of its share, but for requests that came while a turn had not lasted long enough yet.
    """

    weights: Mapping[str, float]
    size: int
    arm: str | None = None
    since: float = 0.0
    owed: dict[str, float] = field(default_factory=dict)
    """How many requests each arm is behind its share; below 0, how many it is ahead. Adds up to 0."""

    def next(self, now: float, least_s: float, lot: float) -> str:
        """The arm for the next request. A turn lasts at least ``least_s``, in seconds on ``now``'s clock.

        Who begins is drawn: ``lot`` is from 0 up to 1.
        """
        if self.arm is None:
            self._turn(arm_by_lot(self.weights, lot), now)
        elif self.owed[self.arm] <= -self.size and now - self.since >= least_s:
            self._turn(max(self.owed, key=lambda arm: (self.owed[arm], arm)), now)
        arm = str(self.arm)
        total = math.fsum(self.weights.values())
        for other, weight in self.weights.items():
            self.owed[other] += weight / total
        self.owed[arm] -= 1
        return arm

    def _turn(self, arm: str, now: float) -> None:
        self.arm, self.since = arm, now
        self.owed = {name: self.owed.get(name, 0.0) for name in self.weights}
