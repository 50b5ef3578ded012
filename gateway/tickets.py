"""One request's place, and what is known of the model it asks for."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from gateway.device import DeviceMemory
from gateway.errors import GatewayError, ModelUnavailable, Overloaded, WaitTimeout
from gateway.replicas import Outcome, ReplicaSet, Visit
from gateway.scheduler import Outlook, Refuse, State


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an engine's start is, in its own words. ``fraction`` is 0..1 within the phase."""

    phase: str
    fraction: float | None = None


Condition = Literal["answers", "busy", "loading", "stopping", "ended"]
"""``busy``: it is there and does not answer now, because it works or hangs. ``loading``: its process is
there and its port is closed, as it is until an engine has loaded, and again once it has crashed."""

FOUND: Mapping[Condition, Literal["ready", "starting", "stopping"]] = {
    "answers": "ready",
    "busy": "starting",
    "loading": "starting",
    "stopping": "stopping",
}


class EngineControl(Protocol):
    """One model's engine, as something that can be brought in, sent away and watched."""

    @property
    def url(self) -> str:
        """Where it answers; when somebody else runs it, for people alone."""
        ...

    @property
    def managed(self) -> bool:
        """Whether we start and stop it."""
        ...

    @property
    def available(self) -> bool:
        """Whether there was somebody to talk to, the last time: the engine, or its supervisor."""
        ...

    async def condition(self, timeout_s: float) -> Condition:
        """What can be seen of it now; its answer is waited for at most ``timeout_s`` seconds."""
        ...

    async def start(self, say: Callable[[Progress], None]) -> None:
        """Return once it answers. Raises GatewayError with the reason when it will not."""
        ...

    async def stop(self, *, force: bool) -> None:
        """Return once nothing of it is left. Raises GatewayError when that cannot be had."""
        ...

    async def logs(self, tail: int) -> list[str]:
        """The last lines it wrote. Raises GatewayError when they cannot be had."""
        ...

    async def watch(self, heard_at: Callable[[], float]) -> str:
        """Return, with the reason, once it no longer answers. ``heard_at``: its last sign of life."""
        ...


@dataclass(slots=True)
class Entry:
    """What is known of one model beside the scheduler's state."""

    id: str
    control: EngineControl
    device: DeviceMemory | None
    silence_s: float
    probe_s: float = 20.0
    preload: bool = False
    created_at: float = field(default_factory=time.time)
    changed_at: float = field(default_factory=time.time)
    state: State | None = None
    progress: Progress | None = None
    loading_since: float = 0.0
    ready_at: float = 0.0
    heard_at: float = 0.0
    suspected_at: float = math.inf
    """When a request first had reason to think that it is gone; infinite while nothing says so."""
    operation: asyncio.Task[None] | None = None
    watcher: asyncio.Task[None] | None = None
    look: asyncio.Task[Condition] | None = None
    scout: asyncio.Task[None] | None = None
    replicas: ReplicaSet = field(default_factory=lambda: ReplicaSet(()))
    """Where requests go. Left out: to the one address of ``control``."""

    def __post_init__(self) -> None:
        if not self.replicas.all:
            self.replicas = ReplicaSet([self.control.url], trusted=True)


class Owner(Protocol):
    """What a ticket needs of the manager that gave it out."""

    def now(self) -> float: ...
    def outlook(self, ticket_id: int) -> Outlook: ...
    def examine(self, model: str, reason: str, *, silent: bool) -> None: ...
    async def look(self, model: str, reason: str) -> None: ...
    def closed(self, ticket_id: int, *, granted: bool, at: float | None = None) -> None: ...


class Lender(Protocol):
    """Has places in engines with other processes."""

    def look(self) -> None:
        """Something was decided: what is lent may be wanted now. Must be quick."""
        ...

    async def call_home(self, model: str) -> None:
        """Return once nothing is lent and unused on the model's device, or a little later."""
        ...


class Ticket:
    """One request's place: in a queue, then in an engine. ``close`` gives it back, always."""

    __slots__ = (
        "_asked_at",
        "_closed",
        "_entry",
        "_granted_at",
        "_manager",
        "_news",
        "_visit",
        "id",
        "refusal",
    )

    def __init__(self, owner: Owner, entry: Entry, ticket_id: int, asked_at: float) -> None:
        self.id = ticket_id
        self._manager = owner
        self._entry = entry
        self._asked_at = asked_at
        self._granted_at: float | None = None
        self._news: asyncio.Event | None = None  # made by the first who waits: most are granted at once
        self.refusal: GatewayError | None = None
        self._closed = False
        self._visit: Visit | None = None

    @property
    def granted(self) -> bool:
        return self._granted_at is not None

    @property
    def model(self) -> str:
        return self._entry.id

    @property
    def waited_s(self) -> float:
        return (self._granted_at or self._manager.now()) - self._asked_at

    @property
    def load_s(self) -> float:
        """The part of the wait in which the model was coming in."""
        if self._granted_at is None or self._entry.ready_at <= self._asked_at:
            return 0.0
        begun = max(self._asked_at, self._entry.loading_since)
        return max(0.0, min(self._entry.ready_at, self._granted_at) - begun)

    @property
    def queue_s(self) -> float:
        """The rest of the wait: for a turn, or for a free place in the engine."""
        return self.waited_s - self.load_s

    @property
    def progress(self) -> Progress | None:
        """How far the model's start is, while it starts."""
        return self._entry.progress

    def outlook(self) -> Outlook:
        return self._manager.outlook(self.id)

    async def wait(self, timeout_s: float | None) -> None:
        """Return when there is news: a grant, a new phase or progress; or when ``timeout_s`` has passed.

        Raises the reason of a refusal.
        """
        if not self.granted and self.refusal is None:
            news = self._news = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await news.wait()
        if self.refusal is not None:
            raise self.refusal

    def visit(self, now: float | None = None) -> str:
        """The address of the engine that the request goes to, once granted."""
        self._visit = self._entry.replicas.enter(self._manager.now() if now is None else now)
        return self._visit.replica.url

    def visit_another(self, been: Collection[str]) -> str | None:
        """Of another engine of the same model, when there is a good one and a second try is not too much."""
        self._visit = self._entry.replicas.enter_another(self._manager.now(), been)
        return self._visit.replica.url if self._visit is not None else None

    def left(self, outcome: Outcome, reason: str | None = None, now: float | None = None) -> None:
        """The engine is done with the request, one way or the other. Harmless when it was left before."""
        visit, self._visit = self._visit, None
        if visit is not None:
            now = self._manager.now() if now is None else now
            self._entry.replicas.leave(visit, outcome, now, reason)

    @property
    def has_replicas(self) -> bool:
        """Whether several engines answer for the model."""
        return self._entry.replicas.several

    def heard(self, now: float | None = None) -> None:
        """The engine has sent something for this request (``now``, if that is known): it lives."""
        now = self._entry.heard_at = self._manager.now() if now is None else now
        if self._visit is not None:
            self._visit.replica.heard_at = now

    def suspect(self, reason: str, *, silent: bool) -> None:
        """The engine failed this request in a way that may concern all. ``silent``: it said nothing."""
        self._manager.examine(self._entry.id, reason, silent=silent)

    def was_in_doubt(self, at: float) -> bool:
        """Whether the engine was suspected by then, by others: what was sent to it is not what ended it."""
        return at >= self._entry.suspected_at

    async def lost(self) -> None:
        """Nothing answered at the engine's address. Returns once the manager has looked, and knows."""
        await self._manager.look(self._entry.id, f"nothing answers at {self._entry.control.url}")

    def close(self, at: float | None = None) -> None:
        """``at``: for a place that was lent, when it was used the last time."""
        self.left("unknown")
        if not self._closed:
            self._closed = True
            self._manager.closed(self.id, granted=self.granted, at=at)

    # The manager's side.

    def grant(self, now: float) -> None:
        self._granted_at = now
        self.tell()

    def refuse(self, error: GatewayError) -> None:
        self._closed = True
        self.refusal = error
        self.tell()

    def tell(self) -> None:
        """Something about the wait has changed."""
        if self._news is not None:
            self._news.set()


@dataclass(frozen=True, slots=True)
class Begun:
    """A request that has had its place and its first try elsewhere: ``error`` is how that ended.

    Nothing was given to the client. ``sent`` and ``first_token`` are instants on the monotonic clock, or 0.
    """

    ticket: Ticket
    url: str
    error: GatewayError
    sent: float
    first_token: float


def error_for(refusal: Refuse) -> GatewayError:
    """What a refused client is told."""
    kinds: dict[str, type[GatewayError]] = {"queue_full": Overloaded, "deadline": WaitTimeout}
    hint = "Try again after the time in Retry-After." if refusal.retry_after_s is not None else None
    kind = kinds.get(refusal.code, ModelUnavailable)
    return kind(refusal.message, hint=hint, retry_after_s=refusal.retry_after_s)
