"""Places in a full queue that refused requests were told to come back for. Pure.

Each refused request is told another time, one after the other, as fast as places become free; and when its
time has come, a place is kept for it. So who comes back as told is let in, and a crowd that was refused
together does not come back together. Promises bind nobody: what is not fetched goes to whoever comes.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from dataclasses import dataclass, field
from typing import Final

LEAD_S: Final = 0.5
"""A place is kept from so long before its time: the queue moves in jumps, and clocks differ."""
KEPT_AHEAD: Final = 16
"""So many more are kept while promises are open: requests end by chance, at times fewer than usual."""
GRACE_S: Final = 2.0
"""So long after its time a place is kept."""
KEPT_SHARE: Final = 0.75
"""At most this share of a queue is kept: the rest has work for the engine even if nobody comes back."""
MARGIN: Final = 1.15
"""Places are told so much later than the mean says: what is let in sooner than promised is no harm."""
MOST_PROMISES: Final = 4096
"""For one model. Whoever is refused beyond is told the time of the next, and takes his chance."""
WEIGHT_OF_NEWEST: Final = 0.03
LEAST_FETCHED: Final = 0.1
NEARLY_ALL: Final = 0.7


@dataclass(slots=True, eq=False)
class Promise:
    mark: int
    place_at: float
    """When a place becomes free for it; from then on it is kept."""
    due: float
    """When its request was told to come: up to a second later, as clients are told whole seconds."""
    open: bool = True
    kept: bool = False


@dataclass(slots=True)
class Promises:
    """Of one model. A mark stands for a request: two of the same mark are taken for one that comes again."""

    ahead: list[Promise] = field(default_factory=list)  # by place_at; closed ones may be among them
    due: deque[Promise] = field(default_factory=deque)  # the same, of those whose place is kept now
    by_mark: dict[int, deque[Promise]] = field(default_factory=dict)  # open ones
    all_served_at: float = -math.inf  # when there were a place for the last, if all came
    fetched_share: float = 1.0
    """Of promises whose time has come, how many were fetched, of late. So many of the open ones count."""
    number: int = 0  # of open ones
    kept_places: int = 0  # of open ones in ``due``

    def kept(self, now: float, max_queue: int) -> int:
        """Places that are not for newcomers."""
        self._move(now)
        ahead = min(KEPT_AHEAD, self.number - self.kept_places)
        likely = math.ceil((self.kept_places + ahead) * self._likely_share)
        return min(likely, int(max_queue * KEPT_SHARE))

    def fetch(self, mark: int | None, now: float) -> bool:
        """Whether a place is kept for this request now; then it is given away."""
        self._move(now)
        mine = self._mine(mark)
        if mine is None or mine.due - LEAD_S > now:
            return False
        self._close(mine)
        self._learn(fetched=True)
        return True

    def drop(self, mark: int | None, now: float) -> None:
        """The request got in without its promise."""
        mine = self._mine(mark)
        if mine is not None:
            self._close(mine)
            if mine.due - LEAD_S <= now:
                self._learn(fetched=True)

    def give(self, mark: int | None, now: float, place_s: float) -> float:
        """Whole seconds from now, for a request that is refused: of the next place that nobody was told yet.

        One place becomes free every ``place_s``.
        """
        self._move(now)
        mine = self._mine(mark)
        if mine is not None and mine.due - LEAD_S > now:
            return math.ceil(mine.due - now)  # it came too early; its place is still its own
        last_s = max(0.0, self.all_served_at - now) + place_s * MARGIN
        at = now + last_s * self._likely_share
        if mine is not None:  # it came as told and there was no place: the very next one
            self._close(mine)
            self._learn(fetched=True)
            at = now + place_s
        # Clients count in whole seconds, so that is what they are told.
        wait_s = float(max(1, math.ceil(at - now)))
        if mark is not None and self.number < MOST_PROMISES:
            self.all_served_at = now + last_s
            self._open(Promise(mark, at, now + wait_s))
        return wait_s

    @property
    def _likely_share(self) -> float:
        """How many to reckon with: all, unless clearly fewer come. Of a long wait, a small share is much."""
        return min(1.0, max(LEAST_FETCHED, self.fetched_share / NEARLY_ALL))

    def _mine(self, mark: int | None) -> Promise | None:
        promises = self.by_mark.get(mark) if mark is not None else None
        return promises[0] if promises else None

    def _open(self, promise: Promise) -> None:
        insort(self.ahead, promise, key=lambda one: one.place_at)
        self.by_mark.setdefault(promise.mark, deque()).append(promise)
        self.number += 1

    def _close(self, promise: Promise) -> None:
        """It stays in its row until its time is over, and counts no more."""
        promise.open = False
        self.number -= 1
        promises = self.by_mark[promise.mark]
        promises.remove(promise)
        if not promises:
            del self.by_mark[promise.mark]
        self.kept_places -= promise.kept

    def _move(self, now: float) -> None:
        """Keep places whose time has come, and no longer those that were not fetched in time."""
        while self.ahead and self.ahead[0].place_at <= now + LEAD_S:
            promise = self.ahead.pop(0)
            self.due.append(promise)
            promise.kept = True
            self.kept_places += promise.open
        while self.due and self.due[0].due + GRACE_S < now:
            promise = self.due[0]
            if promise.open:
                self._close(promise)
                self._learn(fetched=False)
            self.due.popleft()

    def _learn(self, *, fetched: bool) -> None:
        self.fetched_share += WEIGHT_OF_NEWEST * (float(fetched) - self.fetched_share)
