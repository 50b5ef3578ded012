"""Continuous batching on one clock: every running stream gets one token per step, and newcomers hold all up.

As in TGI, those who came are read together in one pass, which gives each its first token; meanwhile nobody
else gets one. Then steps of the whole batch go on. The clock does not wait for whoever reads the answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gateway.engine.speed import Speed

LATE_S = 0.25
"""A clock that is later than this gives the time up: tokens that nobody could get are not made up for."""
_log = logging.getLogger("text_generation_launcher")


@dataclass(slots=True, eq=False)
class Seat:
    """One stream's place. ``length`` tokens come to it, whether or not somebody takes them at once."""

    input_tokens: int
    length: int
    given: int = 0
    taken: int = 0
    _waiter: asyncio.Future[None] | None = field(default=None, repr=False)

    async def token(self) -> None:
        """Return when the next token is there."""
        if self.given <= self.taken:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self.taken += 1

    def give(self) -> None:
        self.given += 1
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Batch:
    """All streams of one engine. ``clock`` and ``sleep`` are seconds of the same time."""

    def __init__(
        self, speed: Speed, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._speed = speed
        self._clock = clock
        self._sleep = sleep
        self._arrived: deque[Seat] = deque()
        self._running: list[Seat] = []
        self._context_tokens = 0  # behind all that run
        self._ticking: asyncio.Task[None] | None = None
        self._due = 0.0
        self.lost_s = 0.0

    def enter(self, input_tokens: int, length: int) -> Seat:
        seat = Seat(input_tokens, length)
        self._arrived.append(seat)
        if self._ticking is None:
            self._due = self._clock()
            self._ticking = asyncio.create_task(self._tick())
        return seat

    def leave(self, seat: Seat) -> None:
        """Harmless when it has ended or left already."""
        if seat in self._running:
            self._running.remove(seat)
            self._context_tokens -= seat.input_tokens + seat.given
        elif seat in self._arrived:
            self._arrived.remove(seat)

    async def close(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)

    async def _tick(self) -> None:
        try:
            while self._arrived or self._running:
                if self._arrived:
                    await self._prefill()
                if self._running:
                    await self._pass(self._speed.decode(len(self._running), self._context_tokens))
                    self._give(self._running)
        finally:
            self._ticking = None

    async def _prefill(self) -> None:
        """Read those who came, as many as one pass takes. Who leaves meanwhile was read for nothing."""
        newcomers, tokens = [self._arrived[0]], self._arrived[0].input_tokens
        for seat in list(self._arrived)[1:]:
            if tokens + seat.input_tokens > self._speed.prefill_batch_tokens:
                break
            newcomers.append(seat)
            tokens += seat.input_tokens
        await self._pass(self._speed.prefill(tokens))
        there = [seat for seat in newcomers if seat in self._arrived]
        for seat in there:
            self._arrived.remove(seat)
        self._running.extend(there)
        self._context_tokens += sum(seat.input_tokens for seat in there)
        self._give(there)

    def _give(self, seats: list[Seat]) -> None:
        for seat in seats:
            seat.give()
        self._context_tokens += len(seats)
        ended = [seat for seat in seats if seat.given >= seat.length]
        if ended:
            self._running = [seat for seat in self._running if seat.given < seat.length]
            self._context_tokens -= sum(seat.input_tokens + seat.given for seat in ended)

    async def _pass(self, takes_s: float) -> None:
        """Each pass has its own due time, so that speed does not drift with the cost of sending."""
        now = self._clock()
        if now - self._due > LATE_S:
            self._lose(now - self._due)
            self._due = now
        self._due += takes_s
        await self._sleep(max(0.0, self._due - now))

    def _lose(self, late_s: float) -> None:
        if not self.lost_s:
            _log.warning(
                "This machine is too slow for the speed that was asked for; answers come later than said"
            )
        self.lost_s += late_s
