"""Which of a model's engines gets a request, and when another one may be tried. Pure: time is handed in.

Five rules; ``docs/CONCEPTS.md`` explains them to operators.

1. ``_load``      The one with the fewest requests gets the next; of several, the one that waited longest.
2. ``_failed``    One that fails several requests in a row gets none for a while, but never the last one.
3. ``_try_again`` After that pause it gets a single request; what becomes of that one decides.
4. ``update``     An address that is gone gets nothing new, and is forgotten when its last request has ended.
5. ``RetryBudget`` Second tries are a share of all requests: they must not be the load that kills the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

FULL_S = 1.0
"""One that has just said that it takes no more is asked after all others for this long."""
RESERVE_S = 30.0
RESERVE_REQUESTS = 50

Seen = Literal["answers", "busy", "ended"]
Outcome = Literal["answered", "failed", "full", "unknown"]
"""``unknown``: the client left, or the request was wrong: it says nothing about the engine."""


class ReplicaState(StrEnum):
    """Of one address. Only those that are ready get requests as they come."""

    READY = "ready"
    EJECTED = "ejected"
    DOWN = "down"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Rules:
    """Fixed at start, from the model's record: its probes and its routing."""

    fails: int = 3
    passes: int = 1
    eject_after: int = 3
    eject_s: float = 5.0
    eject_max_s: float = 60.0
    retry_share: float = 0.2
    retry_floor_per_s: float = 2.0


class RetryBudget:
    """Second tries that are paid for: every request brings a share of one, and so does every second.

    What is not used is kept, up to what half a minute or fifty requests bring.
    """

    def __init__(self, share: float, floor_per_s: float, now: float) -> None:
        self._share = share
        self._floor_per_s = floor_per_s
        self._most = max(RESERVE_S * floor_per_s, RESERVE_REQUESTS * share)
        self._saved = self._most
        self._at = now

    def asked(self) -> None:
        """A request has come."""
        self._saved = min(self._most, self._saved + self._share)

    def take(self, now: float) -> bool:
        """Whether one more may be tried again."""
        self._saved = min(self._most, self._saved + self._floor_per_s * max(0.0, now - self._at))
        self._at = max(now, self._at)
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


@dataclass(slots=True, eq=False)
class Replica:
    """One address and what is known of it. Only ``heard_at`` is written from outside."""

    url: str
    up: bool
    """What the probes say."""
    reason: str | None = None
    outstanding: int = 0
    heard_at: float = -math.inf
    draining: bool = False
    probed_at: float | None = None
    row: int = 0  # probes with the same result in a row, below 0 for failures
    turn: int = 0  # when it was last chosen
    full_until: float = -math.inf
    failures: int = 0  # of requests, since the last one that it answered
    ejections: int = 0  # in a row
    ejected_at: float = -math.inf  # the last time
    retry_at: float | None = None  # set while it is ejected
    on_trial: bool = False  # the pause is over, and a probe was answered
    tried: bool = False  # the one request is on its way
    back_since: float = -math.inf

    @property
    def state(self) -> ReplicaState:
        if self.draining:
            return ReplicaState.DRAINING
        if not self.up:
            return ReplicaState.DOWN
        return ReplicaState.READY if self.retry_at is None else ReplicaState.EJECTED

    @property
    def takes_requests(self) -> bool:
        return self.state is ReplicaState.READY or (self.may_be_tried and not self.tried)

    @property
    def may_be_tried(self) -> bool:
        return self.on_trial and self.state is ReplicaState.EJECTED


class Visit:
    """One request at one replica. ``ReplicaSet.leave`` ends it."""

    # Written out: mypyc leaves what a dataclass makes to the interpreter.
    __slots__ = ("began", "is_trial", "replica")

    def __init__(self, replica: Replica, began: float, is_trial: bool) -> None:
        self.replica = replica
        self.began = began
        self.is_trial = is_trial


class ReplicaSet:
    """All addresses of one model. One that was never probed is down, unless ``trusted``."""

    def __init__(
        self, urls: Iterable[str], rules: Rules | None = None, now: float = 0.0, *, trusted: bool = False
    ) -> None:
        self._rules = rules or Rules()
        self._turn = 0
        self._listeners: list[Callable[[], None]] = []
        self.budget = RetryBudget(self._rules.retry_share, self._rules.retry_floor_per_s, now)
        self.all = [Replica(url, up=trusted, reason=None if trusted else _UNSEEN) for url in _once(urls)]

    def listen(self, changed: Callable[[], None]) -> None:
        """``changed`` is called whenever a replica comes, goes, or takes another state."""
        self._listeners.append(changed)

    # ------------------------------------------------------------ what there is

    @property
    def current(self) -> list[Replica]:
        """Without those that are being left."""
        return [replica for replica in self.all if not replica.draining]

    @property
    def several(self) -> bool:
        return len(self.current) > 1

    @property
    def ready(self) -> int:
        return sum(replica.state is ReplicaState.READY for replica in self.all)

    @property
    def any_up(self) -> bool:
        return any(replica.up for replica in self.current)

    @property
    def all_down(self) -> bool:
        """Whether every address has been probed and none is there."""
        return all(not replica.up and replica.probed_at is not None for replica in self.current)

    def best(self, now: float) -> Replica:
        """Whom a request would go to, without sending one."""
        return self._chosen(self.current, now)

    # ------------------------------------------------------------ requests

    def enter(self, now: float) -> Visit:
        """A place for a request. There is always one: when all are bad, it is at the least bad."""
        self.budget.asked()
        among = self.all if len(self.all) == 1 else self.current
        return self._visit(self._chosen(among, now), now)

    def enter_another(self, now: float, been: Collection[str]) -> Visit | None:
        """A place for a second try, at a good replica where the request has not been; None without one."""
        others = [r for r in self.current if r.url not in been and r.takes_requests]
        if not others or not self.budget.take(now):
            return None
        return self._visit(self._chosen(others, now), now)

    def leave(self, visit: Visit, outcome: Outcome, now: float, reason: str | None = None) -> None:
        """The request has ended, or goes elsewhere."""
        replica = visit.replica
        replica.outstanding -= 1
        if visit.is_trial:
            replica.tried = False
        news = visit.began >= replica.ejected_at  # what began before an ejection was judged with it
        if outcome == "full":
            replica.full_until = now + FULL_S
        elif outcome == "answered":
            replica.failures = 0
            if news and replica.retry_at is not None:
                self._reinstate(replica, now)
        elif outcome == "failed" and news:
            self._failed(replica, now, reason)
        if replica.draining and not replica.outstanding:
            self.all.remove(replica)
            self._tell()

    def _visit(self, replica: Replica, now: float) -> Visit:
        self._turn += 1
        replica.turn = self._turn
        replica.outstanding += 1
        is_trial = replica.state is ReplicaState.EJECTED
        replica.tried = replica.tried or is_trial
        return Visit(replica, now, is_trial)

    def _chosen(self, among: list[Replica], now: float) -> Replica:
        if len(among) == 1:
            return among[0]
        good = [replica for replica in among if replica.takes_requests]
        if good:
            return min(good, key=lambda replica: self._load(replica, now))
        return min(among, key=_badness)

    @staticmethod
    def _load(replica: Replica, now: float) -> tuple[bool, int, int]:
        return replica.full_until > now, replica.outstanding, replica.turn

    # ------------------------------------------------------------ ejection

    def _failed(self, replica: Replica, now: float, reason: str | None) -> None:
        replica.failures += 1
        if replica.retry_at is not None:
            self._eject(replica, now, reason)
        elif replica.failures >= self._rules.eject_after and self._others_are_ready(replica):
            self._eject(replica, now, f"{replica.failures} requests in a row failed: {reason}")

    def _others_are_ready(self, replica: Replica) -> bool:
        return any(other is not replica and other.state is ReplicaState.READY for other in self.all)

    def _eject(self, replica: Replica, now: float, reason: str | None) -> None:
        if replica.retry_at is None and now - replica.back_since >= self._rules.eject_max_s:
            replica.ejections = 0
        replica.ejections += 1
        replica.on_trial = False
        replica.ejected_at = now
        replica.retry_at = now + self._pause_s(replica.ejections)
        replica.reason = reason
        self._tell()

    def _pause_s(self, ejections: int) -> float:
        return min(self._rules.eject_max_s, self._rules.eject_s * 2.0 ** min(ejections - 1, 30))

    def _reinstate(self, replica: Replica, now: float) -> None:
        replica.retry_at, replica.reason = None, None
        replica.on_trial, replica.failures, replica.back_since = False, 0, now
        self._tell()

    # ------------------------------------------------------------ probes and names

    def probed(
        self, replica: Replica, seen: Seen, now: float, reason: str | None = None, *, decisive: bool = False
    ) -> None:
        """What a probe showed. ``decisive``: it was made for a reason, and needs no second opinion.

        One that is there and does not answer such a probe in time is left to the others: it may be busy.
        """
        replica.probed_at = now
        if decisive and replica.up and seen == "busy":
            return
        answers = seen == "answers"
        replica.row = max(replica.row, 0) + 1 if answers else min(replica.row, 0) - 1
        if not answers:
            self._missed(replica, now, reason, at_once=decisive and seen == "ended")
        elif replica.up:
            self._try_again(replica, now)
        elif decisive or replica.row >= self._rules.passes:
            replica.up = True
            self._reinstate(replica, now)

    def _missed(self, replica: Replica, now: float, reason: str | None, *, at_once: bool) -> None:
        if replica.up and (at_once or -replica.row >= self._rules.fails):
            count = -replica.row
            replica.up = False
            replica.reason = reason if at_once else f"{count} probes in a row failed: {reason}"
            self._tell()
        elif not replica.up and replica.reason != reason:
            replica.reason = reason
        elif replica.retry_at is not None and replica.retry_at <= now:
            self._eject(replica, now, reason)

    def _try_again(self, replica: Replica, now: float) -> None:
        if replica.retry_at is not None and replica.retry_at <= now:
            replica.on_trial = True

    def trust(self) -> None:
        """They are known to answer: what was never probed counts as up."""
        for replica in self.current:
            if replica.probed_at is None:
                replica.up, replica.reason = True, None
        self._tell()

    def doubt(self) -> None:
        """They are thought to be gone: each has to be seen again."""
        for replica in self.current:
            replica.up, replica.row, replica.probed_at = False, 0, None
            replica.reason = replica.reason or _UNSEEN
        self._tell()

    def update(self, urls: Iterable[str]) -> None:
        """What the names stand for now. An address that comes back goes on where it was."""
        wanted = _once(urls)
        known = {replica.url: replica for replica in self.all}
        if known.keys() == set(wanted) and not any(replica.draining for replica in self.all):
            return
        for url, replica in known.items():
            replica.draining = url not in wanted
        kept = [known.get(url) or Replica(url, up=False, reason=_UNSEEN) for url in wanted]
        self.all = kept + [r for r in self.all if r.draining and r.outstanding]
        self._tell()

    def _tell(self) -> None:
        for changed in self._listeners:
            changed()


_UNSEEN = "it has not been probed yet"


def _once(urls: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(urls))


def _badness(replica: Replica) -> tuple[bool, float, int, int]:
    """An engine that is there and fails may answer after all; one that is not there will not."""
    return not replica.up, replica.retry_at or 0.0, replica.outstanding, replica.turn
