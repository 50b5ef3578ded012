"""A source of requests at a rate, for finding out how much the gateway and its engine can take."""

from __future__ import annotations

import heapq
import itertools
import time
from dataclasses import dataclass, field

import gevent
from locust import task

from loadtest.prompts import Ask, Target
from loadtest.users.base import Asked, GatewayUser

MOST_ATTEMPTS = 3


@dataclass(order=True, slots=True)
class Return:
    """Somebody who was refused and comes back when it was told to. ``due`` is on the monotonic clock."""

    due: float
    number: int
    target: Target = field(compare=False)
    ask: Ask = field(compare=False)
    attempt: int = field(compare=False)


class SaturatingUser(GatewayUser):
    """Begins a new request every ``--pace-s`` seconds, as long as answers take less than that, so that the
    load grows with the number of users. Each request stands for a person: who is refused comes back when
    ``Retry-After`` says, up to twice, while others go on arriving."""

    kind = "saturating"

    def on_start(self) -> None:
        super().on_start()
        self._returns: list[Return] = []
        self._numbers = itertools.count()
        # All of them at once would come in waves. (So they would with Locust's own constant_pacing: it counts
        # from the moment at which a user was made.)
        gevent.sleep(self.prompts.between(0.0, self.desk.settings.pace_s))
        self._due = time.perf_counter()

    def wait_time(self) -> float:
        """Until the next new one, or the next return."""
        due = min([self._due, *(one.due for one in self._returns[:1])])
        return max(0.0, due - time.perf_counter())

    @task
    def begin_or_return(self) -> None:
        if self._returns and self._returns[0].due <= self._due:
            one = heapq.heappop(self._returns)
            self._try(one.target, one.ask, one.attempt)
            return
        # What comes too late moves the later ones.
        self._due = max(self._due, time.perf_counter()) + self.desk.settings.pace_s
        target = self.prompts.target()
        self._try(target, self.prompts.ask(target), 1)

    def _try(self, target: Target, ask: Ask, attempt: int) -> None:
        record, _ = self.ask(Asked(target, ask, attempt=attempt))
        if record.outcome == "refused" and record.retry_after_s is not None and attempt < MOST_ATTEMPTS:
            due = time.perf_counter() + record.retry_after_s
            heapq.heappush(self._returns, Return(due, next(self._numbers), target, ask, attempt + 1))
