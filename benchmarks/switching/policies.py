"""The rivals: what others do, each as a small policy behind the scheduler's events and actions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks.switching.parameters import MAX_CONCURRENT, Engine
from gateway.scheduler import (
    Action,
    Arrived,
    Event,
    Finished,
    Grant,
    Left,
    Refuse,
    Start,
    Started,
    State,
    Stop,
    Stopped,
    Tick,
    WakeAt,
)


@dataclass(slots=True, eq=False)
class Waiting:
    number: int
    model: str
    arrived: float
    deadline: float | None


@dataclass(slots=True)
class Rival:
    """What all of them share: the books, patience, and eviction of the least recently used by bytes.

    Each says two things: which of the waiting may be served now, and which resident may go for whom.
    """

    engines: dict[str, Engine]
    capacity_bytes: int
    queue: list[Waiting] = field(default_factory=list)
    state: dict[str, State] = field(default_factory=dict)
    running: dict[str, set[int]] = field(default_factory=dict)
    used_at: dict[str, float] = field(default_factory=dict)
    ready_at: dict[str, float] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.running = {name: set() for name in self.engines}

    # What a rival is

    def servable(self, now: float) -> Iterable[Waiting]:
        return list(self.queue)

    def may_go(self, resident: str, now: float) -> bool:
        return not self.running[resident]

    def wake_at(self, now: float) -> float | None:
        return None

    # What they share

    def handle(self, event: Event, now: float) -> list[Action]:
        self.actions = []
        self.note(event, now)
        self.forget_the_late(now)
        self.serve(now)
        self.make_room(now)
        times = [w.deadline for w in self.queue if w.deadline is not None] + [self.wake_at(now)]
        wake = min((t for t in times if t is not None and t > now), default=None)
        return self.actions if wake is None else [*self.actions, WakeAt(wake)]

    def note(self, event: Event, now: float) -> None:
        match event:
            case Arrived(number, model, deadline):
                self.queue.append(Waiting(number, model, now, deadline))
            case Finished(number) | Left(number):
                for model, numbers in self.running.items():
                    if number in numbers:
                        numbers.discard(number)
                        self.used_at[model] = now
            case Started(model):
                self.state[model] = State.READY
                self.used_at[model] = self.ready_at[model] = now
            case Stopped(model):
                del self.state[model]
            case Tick() | _:
                pass

    def forget_the_late(self, now: float) -> None:
        for late in [w for w in self.queue if w.deadline is not None and w.deadline <= now]:
            self.queue.remove(late)
            self.actions.append(Refuse(late.number, "deadline", "too late"))

    def serve(self, now: float) -> None:
        for waiting in self.servable(now):
            model = waiting.model
            if self.state.get(model) is State.READY and len(self.running[model]) < MAX_CONCURRENT:
                self.queue.remove(waiting)
                self.running[model].add(waiting.number)
                self.used_at[model] = now
                self.actions.append(Grant(waiting.number))

    def free_bytes(self, states: Iterable[State]) -> int:
        held = sum(self.engines[m].footprint_bytes for m, s in self.state.items() if s in states)
        return self.capacity_bytes - held

    def make_room(self, now: float) -> None:
        """For the oldest that waits for an absent model; one hand-over at a time."""
        wanted = next((w.model for w in self.queue if w.model not in self.state), None)
        if wanted is None:
            return
        size = self.engines[wanted].footprint_bytes
        if size <= self.free_bytes(State):
            self.state[wanted] = State.STARTING
            self.actions.append(Start(wanted))
            return
        staying = [s for s in State if s is not State.STOPPING]
        by_age = sorted((m for m, s in self.state.items() if s is State.READY), key=lambda m: self.used_at[m])
        for resident in by_age:
            if size <= self.free_bytes(staying):
                return
            if self.may_go(resident, now) and not self.running[resident]:
                self.state[resident] = State.STOPPING
                self.actions.append(Stop(resident))


class Fifo(Rival):
    """Strictly in order of arrival: nobody is served past somebody who waits for another model."""

    def servable(self, now: float) -> Iterable[Waiting]:
        here = []
        for waiting in self.queue:
            if self.state.get(waiting.model) is not State.READY:
                break
            here.append(waiting)
        return here


class ResidentFirst(Rival):
    """The resident serves whoever asks for it; it goes when it has nothing to do (llama-swap, Ollama)."""

    def may_go(self, resident: str, now: float) -> bool:
        return not self.running[resident] and all(w.model != resident for w in self.queue)


@dataclass(slots=True)
class LruTimeout(ResidentFirst):
    """As resident first, but a model is only given up after it was idle for a while; least recent first."""

    idle_s: float = 20.0

    def may_go(self, resident: str, now: float) -> bool:
        idle = not self.running[resident] and all(w.model != resident for w in self.queue)
        return idle and now >= self.used_at[resident] + self.idle_s

    def wake_at(self, now: float) -> float | None:
        ready = [m for m, s in self.state.items() if s is State.READY]
        return min(
            (self.used_at[m] + self.idle_s for m in ready if self.used_at[m] + self.idle_s > now),
            default=None,
        )


@dataclass(slots=True)
class StaticSplit(Rival):
    """Time slots of one length, in turn: a model serves for its slot and then, if another waits, goes.

    Slots that nobody waits for are skipped, which is kinder than a truly static split.
    """

    slot_s: float = 30.0

    def over(self, model: str, now: float) -> bool:
        other_waits = any(w.model not in self.state for w in self.queue)
        return other_waits and now >= self.ready_at[model] + self.slot_s

    def servable(self, now: float) -> Iterable[Waiting]:
        ready = {m for m, s in self.state.items() if s is State.READY and not self.over(m, now)}
        return [w for w in self.queue if w.model in ready]

    def may_go(self, resident: str, now: float) -> bool:
        return self.over(resident, now)

    def wake_at(self, now: float) -> float | None:
        ready = [m for m, s in self.state.items() if s is State.READY]
        return min(
            (self.ready_at[m] + self.slot_s for m in ready if self.ready_at[m] + self.slot_s > now),
            default=None,
        )
