"""Energy of cards: from their counters, or from their power where they have none."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from gpu_sidecar.card import Card
from gpu_sidecar.driver import Round

log = logging.getLogger(__name__)

Source = Literal["counter", "power"]

LONGEST_GAP_S: Final = 30.0
"""Power is not carried over a longer time without a reading."""


@dataclass(slots=True)
class Account:
    """One card's energy since this program first read it."""

    index: int
    uuid: str
    source: Source
    total_j: float = 0.0


@dataclass(frozen=True, slots=True)
class Spent:
    """Energy of all cards from one reading to the next. ``whole`` is false when it is not just that: a card
    was away, and nobody knows when it used what."""

    from_s: float
    to_s: float
    joules: float
    whole: bool


@dataclass(frozen=True, slots=True)
class _Reading:
    at_s: float
    source: Source
    value: float  # joules of a counter, or watts


class EnergyMeter:
    """Adds up energy. Without a counter that is power over time, by trapezoids between readings.

    A counter begins anew when the driver is loaded: it is then added from its new zero, and what was used
    between the last reading and the end of the old driver is lost. A card that has once told its counter is
    never added up from power, so that nothing counts twice.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._last: dict[str, _Reading] = {}
        self._last_round_s: float | None = None

    @property
    def accounts(self) -> Iterable[Account]:
        return self._accounts.values()

    @property
    def total_j(self) -> float:
        """Of all cards, since this program first read them."""
        return sum(account.total_j for account in self._accounts.values())

    def add(self, reading: Round) -> Spent | None:
        """The energy since the reading before; None at the first."""
        from_s, self._last_round_s = self._last_round_s, reading.at_s
        metered = [one for card in reading.cards if (one := self._metered(card, reading.at_s)) is not None]
        joules, whole = 0.0, bool(metered)
        for card, now in metered:
            before, self._last[card.uuid] = self._last.get(card.uuid), now
            whole = whole and before is not None and before.at_s == from_s and _follows(before, now)
            joules += self._count(card, before, now)
        if from_s is None:
            return None
        complete = {card.uuid for card, _ in metered} == self._accounts.keys()
        return Spent(from_s, reading.at_s, joules, whole and complete)

    def _metered(self, card: Card, at_s: float) -> tuple[Card, _Reading] | None:
        account = self._accounts.get(card.uuid)
        if card.energy_j is not None:
            return card, _Reading(at_s, "counter", card.energy_j)
        if card.power_w is not None and (account is None or account.source == "power"):
            return card, _Reading(at_s, "power", card.power_w)
        return None

    def _count(self, card: Card, before: _Reading | None, now: _Reading) -> float:
        account = self._accounts.get(card.uuid)
        if account is None:
            account = self._accounts[card.uuid] = Account(card.index, card.uuid, now.source)
            if now.source == "power":
                log.info("card %d (%s): energy is added up from power", card.index, card.uuid)
        account.index, account.source = card.index, now.source
        joules = _between(before, now)
        account.total_j += joules
        return joules


def _follows(before: _Reading, now: _Reading) -> bool:
    """Whether two readings are of one count: no counter between them began anew."""
    return before.source == now.source and (now.source == "power" or now.value >= before.value)


def _between(before: _Reading | None, now: _Reading) -> float:
    """Joules from one reading of a card to the next."""
    if before is None or before.source != now.source:
        return 0.0
    if now.source == "counter":
        return now.value - before.value if _follows(before, now) else now.value
    passed_s = now.at_s - before.at_s
    return (before.value + now.value) / 2 * passed_s if passed_s <= LONGEST_GAP_S else 0.0
