"""Random traces against a tiny model of the world: engines that take their time, fail, die and come back."""

from __future__ import annotations

import copy
import heapq
import itertools
import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import CODE
from gateway.scheduler import (
    Action,
    Arrived,
    CancelStart,
    Changed,
    DevicePolicy,
    Died,
    Event,
    Finished,
    Found,
    Grant,
    Left,
    LoadAsked,
    ModelPolicy,
    NeighbourUses,
    Refuse,
    Scheduler,
    Start,
    Started,
    StartFailed,
    State,
    Stop,
    StopFailed,
    Stopped,
    SwitchPolicy,
    Tick,
    UnloadAsked,
    WakeAt,
)

SERVICE_S, LOAD_S, STOP_S = 20.0, 40.0, 5.0  # the longest that a request, a load, a stop takes


@dataclass
class Faults:
    start_fails: float = 0.0
    stop_fails: float = 0.0
    dies: float = 0.0  # per start


@dataclass
class World:
    """Carries out what the scheduler asks, and checks every action as it comes."""

    models: dict[str, ModelPolicy]
    capacity_bytes: int
    policy: SwitchPolicy
    rng: random.Random
    faults: Faults = field(default_factory=Faults)
    now: float = 0.0
    found: list[Found] = field(default_factory=list)  # what holds memory before the first Tick

    def __post_init__(self) -> None:
        devices = [DevicePolicy("gpu", self.capacity_bytes)]
        self.scheduler = Scheduler(self.models.values(), devices, self.policy, 0.0)
        self.heap: list[tuple[float, int, Event]] = []
        self.order = itertools.count()
        self.wake: float | None = None
        self.engines: dict[str, str] = {}  # starting, ready or stopping; absent: holds nothing
        self.loads: dict[str, int] = {}  # which entry of the heap ends the load that counts
        self.let_go: set[str] = set()  # died, cancelled or unloaded: may be stopped although pinned
        self.neighbour_bytes = 0
        self.waiting: dict[int, tuple[str, float]] = {}
        self.running: dict[int, str] = {}
        self.answered: set[int] = set()
        self.longest_wait_s = 0.0
        self.begun = self.joining = False

    def at(self, time: float, event: Event) -> int:
        number = next(self.order)
        heapq.heappush(self.heap, (time, number, event))
        return number

    def run(self) -> None:
        for found in self.found:
            self.find(found)
            assert self.wake is None, "the timer runs before the first Tick"
        self.begun = True
        self.handle(Tick())
        for _ in range(20_000):
            if not self.step():
                return
        pytest.fail("the world does not come to rest")

    def find(self, found: Found) -> None:
        if found.state != "starting":  # a start is booked when it is joined
            self.engines[found.model] = found.state
        if found.state == "stopping":
            self.let_go.add(found.model)
        self.joining = True
        self.handle(found)
        self.joining = False

    def step(self) -> bool:
        timer = self.wake if self.wake is not None else float("inf")
        if self.heap and self.heap[0][0] <= timer:
            self.now, number, event = heapq.heappop(self.heap)
            if self.still_true(number, event):
                self.handle(event)
            return True
        if self.wake is None:
            return False
        self.now, self.wake = max(self.now, timer), None
        self.handle(Tick())
        return True

    def still_true(self, number: int, event: Event) -> bool:
        match event:
            case Started(model) | StartFailed(model):
                return self.loads.get(model) == number
            case Died(model):
                return self.engines.get(model) == "ready"
            case Finished(request_id):
                return request_id in self.running
            case _:
                return True

    def handle(self, event: Event) -> None:
        self.happen(event)
        for action in self.scheduler.handle(event, self.now):
            self.obey(action)
        self.check()
        if self.begun and self.rng.random() < 0.2:
            self.check_quiet()

    def check_quiet(self) -> None:
        """Before the time that it named, time alone changes nothing: no decision can be slept through."""
        until = self.now + 1e6 if self.wake is None else self.wake
        earlier = self.now + (until - self.now) * self.rng.random()
        if earlier < until and not CODE.modules:  # a compiled scheduler cannot be copied
            actions = copy.deepcopy(self.scheduler).handle(Tick(), earlier)
            assert [a for a in actions if not isinstance(a, WakeAt)] == [], f"slept until {until}"

    def happen(self, event: Event) -> None:
        match event:
            case Arrived(request_id, model):
                self.waiting[request_id] = (model, self.now)
            case Left(request_id) | Finished(request_id):
                if self.waiting.pop(request_id, None) or self.running.pop(request_id, None):
                    self.answered.add(request_id)
            case Started(model):
                self.engines[model] = "ready"
            case StartFailed(model) | Stopped(model):
                self.engines.pop(model, None)
                self.let_go.discard(model)
            case Died(model):
                self.let_go.add(model)
                for request_id in [r for r, m in self.running.items() if m == model]:
                    self.at(self.now, Finished(request_id))
            case UnloadAsked(model):
                self.let_go.add(model)
            case NeighbourUses(_, used):
                self.neighbour_bytes = used
            case _:
                pass

    def obey(self, action: Action) -> None:
        match action:
            case Grant(request_id):
                self.grant(request_id)
            case Refuse(request_id):
                assert self.waiting.pop(request_id, None) is not None, "refused what did not wait"
                self.answered.add(request_id)
            case Start(model):
                self.start(model)
            case CancelStart(model):
                assert self.engines[model] == "starting"
                assert not any(m == model for m, _ in self.waiting.values()), "somebody still waits for it"
                self.let_go.add(model)
                self.stop(model)
            case Stop(model, force):
                self.check_stop(model, force)
                self.stop(model)
            case WakeAt(at):
                self.wake = at
            case Changed():
                pass

    def grant(self, request_id: int) -> None:
        model, arrived = self.waiting.pop(request_id)
        assert request_id not in self.answered, "answered twice"
        assert self.engines.get(model) == "ready", "granted without an engine"
        self.longest_wait_s = max(self.longest_wait_s, self.now - arrived)
        self.running[request_id] = model
        self.at(self.now + self.rng.uniform(0, SERVICE_S), Finished(request_id))

    def start(self, model: str) -> None:
        assert model not in self.engines, "started twice"
        self.engines[model] = "starting"
        held = sum(self.models[m].footprint_bytes for m in self.engines)
        fits = held + self.neighbour_bytes <= self.capacity_bytes
        assert fits or self.joining, "more than the device has"
        fails = self.rng.random() < self.faults.start_fails
        ends = self.now + self.rng.uniform(0, LOAD_S)
        self.loads[model] = self.at(ends, StartFailed(model, "no reason") if fails else Started(model))
        if not fails and self.rng.random() < self.faults.dies:
            self.at(ends + self.rng.uniform(0, 60), Died(model, "killed"))

    def check_stop(self, model: str, force: bool) -> None:
        if not force:
            assert model not in self.running.values(), "stopped with requests in flight"
        assert not self.models[model].pinned or model in self.let_go, "evicted a pinned model"

    def stop(self, model: str) -> None:
        assert model in self.engines
        self.engines[model] = "stopping"
        self.loads.pop(model, None)
        fails = self.rng.random() < self.faults.stop_fails
        ends = self.now + self.rng.uniform(0, STOP_S)
        self.at(ends, StopFailed(model, "still there") if fails else Stopped(model))

    def check(self) -> None:
        for name, policy in self.models.items():
            view = self.scheduler.view(name)
            assert view.in_flight == sum(m == name for m in self.running.values()) <= policy.max_concurrent
            assert view.waiting == sum(m == name for m, _ in self.waiting.values()) <= policy.max_queue

    def check_at_rest(self, requests: Iterable[int]) -> None:
        assert not self.waiting, "somebody waits and nothing will happen any more"
        assert not self.running
        assert self.answered == set(requests), "a request was lost"
        for name in self.models:
            view = self.scheduler.view(name)
            assert (view.waiting, view.in_flight) == (0, 0)
            assert view.state in (State.STOPPED, State.READY, State.FAILED)


GB = 10**9
SIZES = st.integers(1, 12) | st.just(0)  # no memory is declared where there are no devices


@st.composite
def fleets(draw: st.DrawFn, *, max_concurrent: int, pins: bool = False) -> dict[str, ModelPolicy]:
    count = draw(st.integers(2, 4))
    return {
        name: ModelPolicy(
            name,
            "gpu",
            draw(SIZES) * GB,
            max_concurrent=draw(st.integers(1, max_concurrent)) if max_concurrent < 1000 else 1000,
            max_queue=draw(st.integers(1, 6)) if pins else 1000,
            priority=draw(st.integers(0, 2)),
            pinned=pins and draw(st.booleans()),
            preload=pins and draw(st.booleans()),
            idle_timeout_s=draw(st.none() | st.floats(1, 60)),
        )
        for name in "abcd"[:count]
    }


GAPS = st.floats(0, 2) | st.floats(0, 60)
ARRIVALS = st.lists(st.tuples(GAPS, st.integers(0, 3)), min_size=1, max_size=40)
WAITS = st.floats(0, 60)
FOUND: st.SearchStrategy[Literal["ready", "starting", "stopping"]] = st.sampled_from(
    ["ready", "starting", "stopping"]
)


@st.composite
def disorders(draw: st.DrawFn, fleet: dict[str, ModelPolicy]) -> list[tuple[float, Event]]:
    """Whatever operators, neighbours and clients may do, at any time."""
    name = st.sampled_from(sorted(fleet))
    event = (
        st.builds(Left, st.integers(0, 40))
        | st.builds(LoadAsked, name)
        | st.builds(UnloadAsked, name, st.booleans())
        | st.builds(NeighbourUses, st.just("gpu"), st.integers(0, 8).map(lambda n: n * GB))
    )
    return draw(st.lists(st.tuples(st.floats(0, 400), event), max_size=15))


@st.composite
def policies(draw: st.DrawFn, fleet: Collection[str], soonest_return_s: float) -> SwitchPolicy:
    return SwitchPolicy(
        max_wait_s=draw(WAITS),
        min_residency_s=draw(WAITS),
        default_model=draw(st.none() | st.sampled_from(sorted(fleet))),
        return_to_default_after_s=draw(st.none() | st.floats(soonest_return_s, 60)),
        keep_abandoned_loads=draw(st.booleans()),
    )


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_whatever_happens_every_request_is_answered_once_and_all_permits_return(data: st.DataObject) -> None:
    fleet = data.draw(fleets(max_concurrent=3, pins=True))
    policy = data.draw(policies(fleet, soonest_return_s=0))
    faults = Faults(*data.draw(st.tuples(*[st.sampled_from([0.0, 0.3])] * 3)))
    found = data.draw(st.dictionaries(st.sampled_from(sorted(fleet)), FOUND))
    world = World(fleet, 12 * GB, policy, random.Random(data.draw(st.integers(0, 99))), faults)
    world.found = [Found(name, state) for name, state in found.items()]
    arrivals = data.draw(ARRIVALS)
    time = 0.0
    for number, (gap, pick) in enumerate(arrivals):
        time += gap
        deadline = data.draw(st.none() | st.floats(0, 200).map(lambda s, t=time: t + s))
        world.at(time, Arrived(number, sorted(fleet)[pick % len(fleet)], deadline, number % 2))
    for at, event in data.draw(disorders(fleet)):
        world.at(at, event)
    world.at(1000.0, NeighbourUses("gpu", 0))
    world.run()
    world.check_at_rest(range(len(arrivals)))


def longest_wait_s(fleet: dict[str, ModelPolicy], policy: SwitchPolicy, data: st.DataObject) -> float:
    """Of a trace without faults, in which nobody leaves, to the first moment that an engine can take it."""
    world = World(fleet, 12 * GB, policy, random.Random(data.draw(st.integers(0, 99))))
    arrivals = data.draw(ARRIVALS)
    time = 0.0
    for number, (gap, pick) in enumerate(arrivals):
        time += gap
        world.at(time, Arrived(number, sorted(fleet)[pick % len(fleet)], priority=number % 2))
    steady = data.draw(st.integers(0, 100))  # so many requests for one model, so that it is never idle
    for number in range(100, 100 + steady):
        world.at((number - 100) * SERVICE_S / 5, Arrived(number, "a"))
    world.run()
    world.check_at_rest([*range(len(arrivals)), *range(100, 100 + steady)])
    return world.longest_wait_s


@given(st.data(), WAITS, WAITS)
@settings(max_examples=100, deadline=None)
def test_nobody_waits_longer_than_max_wait_and_one_turn_of_each_other_model(
    data: st.DataObject, max_wait_s: float, min_residency_s: float
) -> None:
    fleet = data.draw(fleets(max_concurrent=1000))
    longest = longest_wait_s(fleet, SwitchPolicy(max_wait_s, min_residency_s), data)
    switch_s = SERVICE_S + STOP_S + LOAD_S
    others = len(fleet) - 1
    assert longest <= max_wait_s + others * (switch_s + min_residency_s) + switch_s + 1e-6


@given(st.data(), WAITS, WAITS)
@settings(max_examples=100, deadline=None)
def test_between_two_models_the_wait_is_max_wait_or_the_others_turn_and_then_one_switch(
    data: st.DataObject, max_wait_s: float, min_residency_s: float
) -> None:
    fleet = {name: ModelPolicy(name, "gpu", 7 * GB, max_concurrent=1000, max_queue=1000) for name in "ab"}
    longest = longest_wait_s(fleet, SwitchPolicy(max_wait_s, min_residency_s), data)
    switch_s = SERVICE_S + STOP_S + LOAD_S
    assert longest <= max(max_wait_s, switch_s + min_residency_s) + switch_s + 1e-6


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_models_that_fit_together_never_leave_for_each_other(data: st.DataObject) -> None:
    fleet = {name: ModelPolicy(name, "gpu", 4 * GB, max_concurrent=1000) for name in "abc"}
    world = World(fleet, 12 * GB, SwitchPolicy(), random.Random(data.draw(st.integers(0, 99))))
    for number, (gap, pick) in enumerate(data.draw(ARRIVALS)):
        world.at(number * gap, Arrived(number, "abc"[pick % 3]))
    world.run()
    assert set(world.engines.values()) <= {"ready"}
    assert world.longest_wait_s <= LOAD_S
