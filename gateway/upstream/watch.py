"""The clocks of one call to an engine that httpx cannot keep: first token, between tokens, total."""

from __future__ import annotations

import asyncio
from types import TracebackType

from gateway.schemas import Clocks
from gateway.upstream.base import Clock, ClockTimeout

_HINTS: dict[Clock, str] = {
    "connect": "Check that the engine runs and that its address is right, or raise connect_s.",
    "first_token": "The engine may be overloaded or stuck: try again later, or raise first_token_s.",
    "between_tokens": "The engine has stalled and is being looked at: try again, or raise between_tokens_s.",
    "total": "Ask for fewer tokens (max_new_tokens), or raise total_s.",
}


def clock_timeout(
    clock: Clock, limit_s: float, happened: str, *, engine_suspect: bool = True
) -> ClockTimeout:
    """The error for a clock of ``limit_s`` seconds that ran out."""
    # What is left of one may be 0.399998.
    message = f"{happened} within {round(limit_s, 3):g} s ({clock} clock)"
    return ClockTimeout(clock, message, hint=_HINTS[clock], engine_suspect=engine_suspect)


class Deadlines:
    """Until when the next sign of an answer must come, and the error when it does not.

    The first-token and total clocks start when this is made. ``tokens`` is kept by whoever sees them come.
    """

    __slots__ = ("_clock", "_clocks", "_started", "_waited_for", "tokens")

    def __init__(self, clocks: Clocks, waited_for: object, now: float) -> None:
        """``waited_for`` names the engine's address in errors; ``now`` is on the event loop's clock."""
        self._clocks = clocks
        self._waited_for = waited_for
        self._started = now
        self._clock: Clock = "first_token"
        self.tokens = 0

    def next(self, now: float) -> float:
        """The deadline of a wait that begins ``now``."""
        if self.tokens:
            token_at, self._clock = now + self._clocks.between_tokens_s, "between_tokens"
        else:
            token_at, self._clock = self._started + self._clocks.first_token_s, "first_token"
        total_at = self._started + self._clocks.total_s
        if token_at < total_at:
            return token_at
        self._clock = "total"
        return total_at

    def error(self) -> ClockTimeout:
        """For the last deadline, which has passed."""
        if self._clock == "first_token":
            return clock_timeout(self._clock, self._clocks.first_token_s, f"no token from {self._waited_for}")
        if self._clock == "between_tokens":
            happened = f"{self.tokens} tokens came from {self._waited_for}, then none"
            return clock_timeout(self._clock, self._clocks.between_tokens_s, happened)
        happened = f"no complete answer from {self._waited_for}"
        # A long answer alone makes nobody suspect.
        return clock_timeout(self._clock, self._clocks.total_s, happened, engine_suspect=False)


class Watch:
    """Entered (``with watch:``) around each wait for the engine; raises ClockTimeout when one takes too long.

    There is one timer per call, not one per wait: when it rings early, it is set anew for the deadline
    of the wait then going on. So a token costs a few assignments.
    """

    __slots__ = ("_cancelling", "_deadline", "_deadlines", "_handle", "_loop", "_rang", "_rings_at", "_task")

    def __init__(self, clocks: Clocks, waited_for: object) -> None:
        """``waited_for`` names the engine's address in errors. The first-token and total clocks start now."""
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(clocks, waited_for, self._loop.time())
        self._handle: asyncio.TimerHandle | None = None
        self._rings_at = 0.0
        self._deadline = 0.0
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._rang = False

    @property
    def tokens(self) -> int:
        """How many have come."""
        return self._deadlines.tokens

    def came(self, tokens: int) -> None:
        """So many more have come."""
        self._deadlines.tokens += tokens

    def __enter__(self) -> None:
        now = self._loop.time()
        self._deadline = self._deadlines.next(now)
        if now >= self._deadline:
            raise self._deadlines.error()
        if self._handle is None or self._deadline < self._rings_at:
            self._arm()
        self._task = asyncio.current_task()
        assert self._task is not None  # noqa: S101 - a coroutine outside a task cannot be interrupted
        self._cancelling = self._task.cancelling()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if not self._rang or task is None:
            return
        self._rang = False
        # A cancellation that somebody else asked for at the same time wins.
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise self._deadlines.error() from None

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._rings_at = self._deadline
        self._handle = self._loop.call_at(self._rings_at, self._ring)

    def _ring(self) -> None:
        self._handle = None
        if self._task is None:
            return  # nobody waits; the next wait arms again
        if self._loop.time() < self._deadline:
            self._arm()
        else:
            self._rang = True
            self._task.cancel()
