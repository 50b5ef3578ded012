"""One timer for the deadlines of all calls under way."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final, Protocol

EVERY_S: Final = 0.05
"""How late a deadline may be noticed."""


class Rings(Protocol):
    """What has a deadline, on the monotonic clock. It may move meanwhile, and costs nothing to move."""

    @property
    def deadline(self) -> float: ...

    def ring(self, now: float) -> None:
        """The deadline has passed."""
        ...


class Alarms:
    """Looks at all of them, many times a second: a timer of its own would cost each call more than everything
    else about its clocks."""

    def __init__(self) -> None:
        self._all: set[Rings] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, one: Rings) -> None:
        self._all.add(one)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY_S, self._look)

    def remove(self, one: Rings) -> None:
        self._all.discard(one)

    def _look(self) -> None:
        self._timer, now = None, monotonic()
        if self._all:  # set first: what goes wrong below must not stop the others' clocks
            self._timer = asyncio.get_running_loop().call_later(EVERY_S, self._look)
        for one in [one for one in self._all if one.deadline <= now]:
            one.ring(now)
