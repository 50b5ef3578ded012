"""A card, its engines and their clients in simulated time, around the scheduler or any rival of it."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.switching.parameters import SLOWDOWN_PER_STREAM, SPREAD, Engine
from gateway.scheduler import (
    Action,
    Arrived,
    CancelStart,
    Event,
    Finished,
    Grant,
    Refuse,
    Start,
    Started,
    Stop,
    Stopped,
    Tick,
    WakeAt,
)


class Policy(Protocol):
    def handle(self, event: Event, now: float) -> list[Action]: ...


@dataclass(slots=True)
class Ask:
    """One request as its client sends it, and what became of it."""

    at: float
    model: str
    prompt_tokens: int
    new_tokens: int
    patience_s: float | None = None
    client: Client | None = None
    granted_at: float | None = None
    ended_at: float | None = None
    refused: bool = False

    @property
    def wait_s(self) -> float:
        end = self.granted_at if self.granted_at is not None else self.ended_at
        return (end if end is not None else self.at) - self.at


class Client(Protocol):
    """Sends its next request when the last one has ended."""

    def next(self, now: float) -> Ask | None: ...


@dataclass(slots=True)
class Stream:
    """A generation in its batch; ``work`` is what is left, in tokens of decoding."""

    work: float


@dataclass(slots=True)
class Batch:
    """All streams of one engine: they share its steps, so each slows down as others join."""

    engine: Engine
    streams: dict[int, Stream] = field(default_factory=dict)
    updated: float = 0.0
    version: int = 0  # an end that was computed before the batch changed does not count

    def rate(self) -> float:
        return self.engine.tokens_per_s / (1 + SLOWDOWN_PER_STREAM * max(0, len(self.streams) - 1))

    def advance(self, now: float) -> None:
        done = (now - self.updated) * self.rate()
        for stream in self.streams.values():
            stream.work -= done
        self.updated = now
        self.version += 1

    def next_end(self) -> tuple[float, int] | None:
        if not self.streams:
            return None
        first = min(self.streams, key=lambda number: self.streams[number].work)
        return self.updated + max(0.0, self.streams[first].work) / self.rate(), first


@dataclass(slots=True)
class Result:
    asks: list[Ask] = field(default_factory=list)
    starts: int = 0
    lost_s: float = 0.0  # spent by engines in stopping and loading
    held_s: float = 0.0  # somebody waits, and nothing runs, loads or stops
    most_resident_bytes: int = 0
    most_resident: int = 0
    ended_at: float = 0.0


@dataclass(slots=True)
class Simulation:
    engines: dict[str, Engine]
    policy: Policy
    rng: random.Random
    now: float = 0.0
    result: Result = field(default_factory=Result)
    _heap: list[tuple[float, int, object]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=itertools.count)
    _batches: dict[str, Batch] = field(default_factory=dict)
    _busy_since: dict[str, float] = field(default_factory=dict)  # loading or stopping
    _loading: dict[str, int] = field(default_factory=dict)
    _resident: set[str] = field(default_factory=set)
    _asks: dict[int, Ask] = field(default_factory=dict)
    _wake: float | None = None

    def run(self, asks: Iterable[Ask], clients: Iterable[Client]) -> Result:
        self._batches = {name: Batch(engine) for name, engine in self.engines.items()}
        for ask in asks:
            self._at(ask.at, ask)
        for client in clients:
            self._send_next(client)
        self._handle(Tick())
        while self._step():
            pass
        return self.result

    def _at(self, time: float, what: object) -> int:
        number = next(self._order)
        heapq.heappush(self._heap, (time, number, what))
        return number

    def _step(self) -> bool:
        next_time = self._heap[0][0] if self._heap else None
        if self._wake is not None and (next_time is None or self._wake < next_time):
            time, self._wake = self._wake, None
            self._move_to(time)
            self._handle(Tick())
            return True
        if next_time is None:
            return False
        time, number, what = heapq.heappop(self._heap)
        self._move_to(time)
        self._happen(number, what)
        return True

    def _move_to(self, time: float) -> None:
        time = max(time, self.now)
        working = any(batch.streams for batch in self._batches.values())
        if not working and not self._busy_since and any(a.granted_at is None for a in self._asks.values()):
            self.result.held_s += time - self.now
        self.now = time

    def _happen(self, number: int, what: object) -> None:
        match what:
            case Ask():
                self._arrive(what)
            case Started(model):
                if self._loading.get(model) == number:
                    self.result.lost_s += self.now - self._busy_since.pop(model)
                    self._handle(what)
            case Stopped(model):
                self.result.lost_s += self.now - self._busy_since.pop(model)
                self._resident.discard(model)
                self._handle(what)
            case (str() as name, int() as version):
                if self._batches[name].version == version:
                    self._end_of_stream(self._batches[name])
            case _:
                raise TypeError(what)

    def _arrive(self, ask: Ask) -> None:
        number = len(self.result.asks)
        self.result.asks.append(ask)
        self._asks[number] = ask
        deadline = None if ask.patience_s is None else ask.at + ask.patience_s
        self._handle(Arrived(number, ask.model, deadline))

    def _handle(self, event: Event) -> None:
        for action in self.policy.handle(event, self.now):
            self._obey(action)

    def _obey(self, action: Action) -> None:
        match action:
            case Grant(request_id):
                self._grant(request_id)
            case Refuse(request_id):
                ask = self._asks.pop(request_id)
                ask.refused, ask.ended_at = True, self.now
                self._send_next(ask.client)
            case Start(model):
                self._start(model)
            case CancelStart(model) | Stop(model):
                self._stop(model)
            case WakeAt(at):
                self._wake = at
            case _:
                pass

    def _grant(self, number: int) -> None:
        ask = self._asks[number]
        ask.granted_at = self.now
        batch = self._batches[ask.model]
        assert ask.model in self._resident
        assert ask.model not in self._busy_since
        batch.advance(self.now)
        prefill_s = ask.prompt_tokens / batch.engine.prefill_tokens_per_s
        batch.streams[number] = Stream(ask.new_tokens + prefill_s * batch.engine.tokens_per_s)
        self._plan_end(batch)

    def _plan_end(self, batch: Batch) -> None:
        end = batch.next_end()
        if end is not None:
            self._at(end[0], (batch.engine.name, batch.version))

    def _end_of_stream(self, batch: Batch) -> None:
        end = batch.next_end()
        assert end is not None
        number = end[1]
        batch.advance(self.now)
        del batch.streams[number]
        self._plan_end(batch)
        ask = self._asks.pop(number)
        ask.ended_at = self.result.ended_at = self.now
        self._handle(Finished(number))
        self._send_next(ask.client)

    def _send_next(self, client: Client | None) -> None:
        ask = client.next(self.now) if client is not None else None
        if ask is not None:
            ask.client = client
            self._at(ask.at, ask)

    def _start(self, model: str) -> None:
        self._resident.add(model)
        self._busy_since[model] = self.now
        held = sum(self.engines[name].footprint_bytes for name in self._resident)
        self.result.starts += 1
        self.result.most_resident_bytes = max(self.result.most_resident_bytes, held)
        self.result.most_resident = max(self.result.most_resident, len(self._resident))
        self._loading[model] = self._at(self.now + self._vary(self.engines[model].load_s), Started(model))

    def _stop(self, model: str) -> None:
        assert not self._batches[model].streams
        self._loading.pop(model, None)
        if model in self._busy_since:  # a load is given up
            self.result.lost_s += self.now - self._busy_since[model]
        self._busy_since[model] = self.now
        self._at(self.now + self._vary(self.engines[model].stop_s), Stopped(model))

    def _vary(self, seconds: float) -> float:
        return seconds * self.rng.uniform(1 - SPREAD, 1 + SPREAD)
