"""The scheduler's books: who holds which part of a device, who asks for it, who would be missed least.

Pure data and questions about it; nothing here decides or acts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from gateway.switching.history import History
from gateway.switching.places import Places
from gateway.switching.promises import Promises
from gateway.switching.vocabulary import DevicePolicy, ModelPolicy, ModelView, State

EXACT_SEARCH_UP_TO = 10
"""Residents of one device for which every set of victims is tried; beyond it, a greedy choice."""

STOPS_TO_WAIT_FOR = 3
"""So often may a stop fail before nobody waits any longer for what it would free."""

HOLDS_MEMORY = frozenset({State.STARTING, State.READY, State.DRAINING, State.STOPPING})


class Request:
    """``due``: when a hand-over to its model must begin at the latest. ``number``: of its place in the queue,
    in order of arrival."""

    # Written out: there is one for each request, and mypyc leaves what a dataclass makes to the interpreter.
    __slots__ = ("arrived", "deadline", "due", "granted_at", "id", "model", "number", "priority")

    def __init__(
        self,
        id: int,  # noqa: A002  the field's name
        model: Model,
        arrived: float,
        due: float,
        deadline: float | None,
        priority: int,
        granted_at: float | None = None,
    ) -> None:
        self.id = id
        self.model = model
        self.arrived = arrived
        self.due = due
        self.deadline = deadline
        self.priority = priority
        self.granted_at = granted_at
        self.number = 0


@dataclass(slots=True, eq=False)
class Model:
    policy: ModelPolicy
    footprint_bytes: int
    since: float
    state: State = State.STOPPED
    reason: str | None = None
    waiting: dict[int, Request] = field(default_factory=dict)  # in order of arrival
    places: Places = field(default_factory=Places)  # of those who wait
    promises: Promises = field(default_factory=Promises)  # to those whom a full queue refused
    running: dict[int, Request] = field(default_factory=dict)
    history: History = field(default_factory=History)
    wanted_since: float | None = None  # demand without a request: preload, LoadAsked, return to default
    ready_since: float = 0.0
    idle_since: float = 0.0
    failures: int = 0  # failed starts and early deaths in a row
    retry_at: float | None = None  # no start before
    start_began: float | None = None  # of a start that was seen from its beginning, so can be measured
    told_no_room: bool = False  # it goes without room, which was announced
    stop_failures: int = 0
    stop_again_at: float | None = None
    stop_began: float | None = None  # of an orderly stop, which is worth measuring
    makes_room_for: Model | None = None  # why it drains; None for an unload, which is not taken back
    claim: bool = False  # its hand-over has begun: the memory that is being freed is for it
    replicas: int = 1
    unused: int = 0  # of ``running``: lent slots (lending.py) in which nothing runs
    soonest_due: float = math.inf  # over ``waiting``
    soonest_deadline: float = math.inf

    @property
    def holds_memory(self) -> bool:
        """Whether something of its engine is there, or may be, however little it is known to need."""
        return self.state in HOLDS_MEMORY

    @property
    def holds_bytes(self) -> int:
        return self.footprint_bytes if self.policy.managed and self.holds_memory else 0

    @property
    def demanded(self) -> bool:
        return bool(self.waiting) or self.wanted_since is not None

    @property
    def idle(self) -> bool:
        return not self.running and not self.waiting

    @property
    def stuck(self) -> bool:
        """Could not be stopped; its memory cannot be counted on."""
        return self.state is State.STOPPING and self.stop_again_at is not None

    @property
    def leaving(self) -> bool:
        """Its memory comes back without any further decision."""
        return self.state in (State.DRAINING, State.STOPPING) and not self.stuck

    def can_admit(self) -> bool:
        return self.state is State.READY and len(self.running) < self.slots

    @property
    def slots(self) -> int:
        """How many requests its engines take together."""
        return self.policy.max_concurrent * self.replicas

    def asks_for_room(self, now: float) -> bool:
        """Somebody wants it, it is not there, and it is not in back-off."""
        if not self.policy.managed or not self.demanded or self.state in (State.STARTING, State.READY):
            return False
        return self.state is not State.FAILED or self.retry_at is None or self.retry_at <= now

    def asked_at(self) -> float:
        """When the oldest demand for it came. Only while ``demanded``."""
        times = [] if self.wanted_since is None else [self.wanted_since]
        if self.waiting:
            times.append(next(iter(self.waiting.values())).arrived)
        return min(times)

    def due_at(self, max_wait_s: float) -> float:
        """When a hand-over to it must begin at the latest. Only while ``demanded``."""
        if self.wanted_since is None:
            return self.soonest_due
        return min(self.soonest_due, self.wanted_since + max_wait_s)

    def idle_timeout_at(self) -> float | None:
        timeout_s = self.policy.idle_timeout_s
        if timeout_s is None or self.state is not State.READY or not self.idle or self.policy.pinned:
            return None
        return self.idle_since + timeout_s if self.policy.managed else None

    def let_in(self, request_id: int, mark: int, now: float, book: dict[int, Request]) -> None:
        """A request takes one of the slots as it arrives. Only while ``can_admit``."""
        self.history.arrived(now)
        self.promises.drop(mark, now)
        request = Request(request_id, self, now, now, None, 0, now)
        book[request_id] = self.running[request_id] = request

    def ends_quietly(self, device: Device, *, returns: bool) -> bool:
        """Whether the end of one of its requests changes nothing for anybody: others go on running in it, or
        nothing will happen for its being idle, and nobody waits for a slot, or for room.

        ``returns``: after a quiet time the default model is brought back.
        """
        if self.state is not State.READY:
            return False
        if len(self.running) < 2 and (returns or self.policy.idle_timeout_s is not None):
            return False
        return not any(model.waiting or model.wanted_since is not None for model in device.models)

    def fell_idle(self, now: float, at: float | None) -> None:
        """Its last request has ended. ``at``: of a place that was lent, when it was used the last time."""
        self.idle_since = now if at is None else max(self.idle_since, at)

    def let_go(self, request: Request, now: float, at: float | None) -> None:
        """One of those that run has ended; ``at`` as above."""
        del self.running[request.id]
        if self.idle:
            self.fell_idle(now, at)
        if request.granted_at is not None:
            self.history.service.add(now - request.granted_at)
            self.history.occupancy.add(now - request.granted_at)

    def enqueue(self, request: Request) -> None:
        self.waiting[request.id] = request
        request.number = self.places.take(request.priority)
        self.soonest_due = min(self.soonest_due, request.due)
        if request.deadline is not None:
            self.soonest_deadline = min(self.soonest_deadline, request.deadline)

    def dequeue(self, request: Request) -> bool:
        """False if it was not waiting."""
        if self.waiting.pop(request.id, None) is None:
            return False
        self.places.leave(request.priority, request.number)
        left = self.waiting.values()
        if request.due <= self.soonest_due:
            self.soonest_due = min((r.due for r in left), default=math.inf)
        if request.deadline == self.soonest_deadline:
            deadlines = (r.deadline for r in left if r.deadline is not None)
            self.soonest_deadline = min(deadlines, default=math.inf)
        return True

    def loss(self, now: float, horizon_s: float) -> float:
        """Seconds of reloading that its eviction would bring on those who use it."""
        expected = self.history.arrival_rate(now) * horizon_s
        demand = len(self.waiting) + len(self.running) + expected
        return demand * self.history.reload_s(self.footprint_bytes)

    def view(self) -> ModelView:
        return ModelView(
            state=self.state,
            since=self.since,
            reason=self.reason,
            waiting=len(self.waiting),
            in_flight=max(0, len(self.running) - self.unused),
            last_start_s=self.history.load.last(),
            footprint_bytes=self.footprint_bytes,
            retry_at=self.retry_at if self.state is State.FAILED else None,
        )


@dataclass(slots=True, eq=False)
class Device:
    policy: DevicePolicy
    models: list[Model] = field(default_factory=list)
    neighbour_bytes: int = 0
    quiet_since: float | None = None  # nothing runs, waits, comes or goes since then
    away_from_default: bool = False
    wake_at: float | None = None

    def free_bytes(self) -> int:
        held = sum(model.holds_bytes for model in self.models)
        return self.policy.capacity_bytes - self.neighbour_bytes - held

    def leaving_bytes(self) -> int:
        return sum(model.holds_bytes for model in self.models if model.leaving)

    def pinned_bytes(self, but: Model) -> int:
        """Held by residents that may never be evicted."""
        pinned = (
            m for m in self.models if m.policy.pinned and m is not but and m.state is not State.STOPPING
        )
        return sum(m.holds_bytes for m in pinned)

    def most_bytes(self, but: Model) -> int:
        """The most room that there can ever be for it: what pinned residents hold does not come back."""
        return self.policy.capacity_bytes - self.pinned_bytes(but)

    def attainable_bytes(self, but: Model) -> int:
        """The most room that could be made for it now, by evicting everything that may be evicted."""
        stuck = sum(m.holds_bytes for m in self.models if m.stuck and m is not but)
        return self.most_bytes(but) - self.neighbour_bytes - stuck

    def may_yet_be_freed_bytes(self) -> int:
        """Held by what could not be stopped, where another try is worth waiting for."""
        return sum(m.holds_bytes for m in self.models if m.stuck and m.stop_failures < STOPS_TO_WAIT_FOR)

    def note_use(self, model: Model) -> None:
        """A request was let in. It may have ended before anybody notes what is quiet."""
        if model.policy.managed:
            self.quiet_since = None

    def note_quiet(self, now: float) -> None:
        moving = (State.STARTING, State.DRAINING, State.STOPPING)
        ours = [m for m in self.models if m.policy.managed]
        if any(not m.idle or m.state in moving or (m.demanded and not m.told_no_room) for m in ours):
            self.quiet_since = None
        elif self.quiet_since is None:
            self.quiet_since = now


def room_complaint(device: Device, model: Model, *, due: bool) -> str | None:
    """Why it cannot be placed, with the figures: at once if it never can, when ``due`` if it cannot now."""
    size = model.footprint_bytes
    needs = f"{model.policy.id} needs {_gb(size)} on {device.policy.id}"
    if size > device.most_bytes(but=model):
        capacity, pinned = device.policy.capacity_bytes, device.pinned_bytes(but=model)
        return f"{needs}, which has {_gb(capacity)}, of which pinned models hold {_gb(pinned)}."
    attainable = device.attainable_bytes(but=model)
    if not due or size <= attainable + device.may_yet_be_freed_bytes():
        return None
    others = _gb(device.neighbour_bytes)
    return f"{needs}; at most {_gb(max(0, attainable))} can be freed now, other programs hold {others}."


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def want_preloads(device: Device, now: float) -> None:
    """Of the models to preload, those that fit together: pinned first, then by priority.

    Those that are there already, or on their way, need no wish but count.
    """
    room = device.policy.capacity_bytes
    asked = [m for m in device.models if m.policy.preload and m.policy.managed]
    for model in sorted(asked, key=lambda m: (not m.policy.pinned, -m.policy.priority)):
        if model.footprint_bytes <= room:
            room -= model.footprint_bytes
            if model.state not in (State.READY, State.STARTING):
                model.wanted_since = now


def cheapest_victims(
    candidates: Sequence[Model], need_bytes: int, now: float, horizon_s: float
) -> list[Model] | None:
    """The set that frees ``need_bytes`` with the least loss; None when all of them together do not."""
    if sum(model.holds_bytes for model in candidates) < need_bytes:
        return None
    losses = {id(model): model.loss(now, horizon_s) for model in candidates}

    def cost(victims: Iterable[Model]) -> tuple[float, float, float]:
        chosen = list(victims)
        least_recent = sum(model.idle_since for model in chosen)
        return sum(losses[id(m)] for m in chosen), sum(m.holds_bytes for m in chosen), least_recent

    if len(candidates) > EXACT_SEARCH_UP_TO:
        return _greedy_victims(sorted(candidates, key=lambda m: losses[id(m)] / m.holds_bytes), need_bytes)
    sets = (s for n in range(1, len(candidates) + 1) for s in combinations(candidates, n))
    enough = (s for s in sets if sum(m.holds_bytes for m in s) >= need_bytes)
    return list(min(enough, key=cost))


def _greedy_victims(cheapest_first: Sequence[Model], need_bytes: int) -> list[Model]:
    chosen: list[Model] = []
    freed = 0
    for model in cheapest_first:
        if freed >= need_bytes:
            break
        chosen.append(model)
        freed += model.holds_bytes
    for model in tuple(chosen):  # an early small one may have become superfluous
        if freed - model.holds_bytes >= need_bytes:
            chosen.remove(model)
            freed -= model.holds_bytes
    return chosen
