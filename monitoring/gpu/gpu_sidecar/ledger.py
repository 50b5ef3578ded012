"""Energy against work: what a token took, what a switch took, and what was used for nothing.

Time is cut into intervals, each from one reading of cards and gateway to the next. An interval's energy is
that of all cards; its tokens are those that the gateway counted in it. The gateway counts the seconds that a
switch cost when it is over, so an interval may learn afterwards that it was part of one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gpu_sidecar.energy import Spent
from gpu_sidecar.gateway import Counts

KEPT_S: Final = 900.0
"""Switches that took longer get no figure."""


@dataclass(slots=True)
class Interval:
    """Energy and work of a while. ``whole`` is false when its energy is not known exactly."""

    from_s: float
    to_s: float
    joules: float
    whole: bool
    tokens: float
    busy: bool
    switching_s: float = 0.0

    @property
    def switching_j(self) -> float:
        length_s = self.to_s - self.from_s
        return self.joules * min(1.0, self.switching_s / length_s) if length_s > 0 else 0.0

    def within(self, from_s: float, to_s: float) -> float:
        """Seconds of it that lie between two times."""
        return max(0.0, min(self.to_s, to_s) - max(self.from_s, from_s))


@dataclass(slots=True)
class _Switch:
    """Switches to a model until they are told: how many, and the energy of each time that was lost to them.
    Tries that failed lose time and do not count."""

    count: float = 0.0
    joules: list[float | None] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Balance:
    """The window's energy by what the gateway did, in joules, and the tokens that came out meanwhile."""

    serving_j: float
    switching_j: float
    idle_j: float
    tokens: float

    @property
    def joules_per_token(self) -> Mapping[str, float]:
        """All of the window's energy, and that of serving alone, by token. Empty where no token came out."""
        if self.tokens <= 0:
            return {}
        everything = self.serving_j + self.switching_j + self.idle_j
        return {"all": everything / self.tokens, "serving": self.serving_j / self.tokens}


class EnergyLedger:
    """Keeps the latest intervals and what the latest switch to each model took."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._intervals: deque[Interval] = deque()
        self._open: Interval | None = None
        self._counts: Counts | None = None
        self._switches: dict[str, _Switch] = {}
        self._per_switch: dict[str, float] = {}

    @property
    def joules_per_switch(self) -> Mapping[str, float]:
        """Energy of all cards during the latest switch to a model; the mean where several came at once."""
        return self._per_switch

    def add(self, spent: Spent | None, counts: Counts | None) -> None:
        """One reading. Without counts the interval stays open: the next ones hold what happened meanwhile."""
        if spent is not None:
            self._extend(spent)
        if counts is None:
            return
        before, self._counts = self._counts, counts
        interval, self._open = self._open, None
        if before is None or interval is None:
            return
        interval.tokens = increase(before.tokens, counts.tokens)
        interval.busy = bool(interval.tokens or before.in_flight or counts.in_flight)
        self._intervals.append(interval)
        while self._intervals[0].to_s < interval.to_s - max(KEPT_S, self._window_s):
            self._intervals.popleft()
        self._add_switches(before, counts, interval.to_s)

    def _extend(self, spent: Spent) -> None:
        if self._open is None:
            self._open = Interval(spent.from_s, spent.to_s, 0.0, whole=True, tokens=0.0, busy=False)
        self._open.to_s = spent.to_s
        self._open.joules += spent.joules
        self._open.whole = self._open.whole and spent.whole

    def _add_switches(self, before: Counts, now: Counts, at_s: float) -> None:
        for model, total_s in now.lost_s.items():
            lost_s = increase(before.lost_s.get(model, 0.0), total_s)
            if lost_s > 0:
                switch = self._switches.setdefault(model, _Switch())
                switch.joules.append(self._energy(at_s - lost_s, at_s))
        for model, total in now.switches.items():
            if (more := increase(before.switches.get(model, 0.0), total)) > 0:
                self._switches.setdefault(model, _Switch()).count += more
        for model, switch in list(self._switches.items()):
            if switch.count and switch.joules:
                del self._switches[model]
                self._close(model, switch)

    def _energy(self, from_s: float, to_s: float) -> float | None:
        """Joules between two times, which from now on count as switching; None where they are not known."""
        joules, covered_s, whole = 0.0, 0.0, True
        for interval in self._intervals:
            within_s = interval.within(from_s, to_s)
            if within_s > 0:
                interval.switching_s += within_s
                joules += interval.joules * within_s / (interval.to_s - interval.from_s)
                covered_s += within_s
                whole = whole and interval.whole
        return joules if whole and covered_s >= (to_s - from_s) * 0.99 else None

    def _close(self, model: str, switch: _Switch) -> None:
        """Both have come: the seconds and the switch that they belong to."""
        known = [joules for joules in switch.joules if joules is not None]
        if len(known) == len(switch.joules):
            self._per_switch[model] = sum(known) / switch.count
        else:
            self._per_switch.pop(model, None)

    def balance(self, now_s: float) -> Balance | None:
        """The last window; None when nothing in it was measured wholly."""
        recent = [one for one in self._intervals if one.whole and one.to_s > now_s - self._window_s]
        if not recent:
            return None
        switching_j = sum(interval.switching_j for interval in recent)
        serving_j = sum(interval.joules - interval.switching_j for interval in recent if interval.busy)
        idle_j = sum(interval.joules - interval.switching_j for interval in recent if not interval.busy)
        return Balance(serving_j, switching_j, idle_j, sum(interval.tokens for interval in recent))


def increase(before: float, now: float) -> float:
    """What a counter rose by. One that has fallen began anew with its gateway."""
    return now - before if now >= before else now
