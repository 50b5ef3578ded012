"""Requests that concern nobody else pass the scheduler directly: nothing is decided otherwise for that.

Two schedulers live through the same trace. One is told every event; the other, wherever it says that it can,
by the shorter ways. What they decide and what they note must be the same, at every step.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_desk import Desk, model
from test_scheduler_properties import ARRIVALS, FOUND, GB, Faults, World, disorders, fleets, policies

from gateway import CODE
from gateway.scheduler import (
    Action,
    Arrived,
    DevicePolicy,
    Event,
    Finished,
    Found,
    Grant,
    ModelPolicy,
    NeighbourUses,
    Scheduler,
    State,
    SwitchPolicy,
    Tick,
    WakeAt,
)
from gateway.switching.books import Device, Model

_SHOWN_APART = {"policy", "waiting", "running", "makes_room_for"}


def noted(scheduler: Scheduler) -> dict[str, object]:
    """All that a scheduler has in its books, but for when it wants to look again."""
    found: dict[str, object] = {
        "requests": {number: one.granted_at for number, one in scheduler._requests.items()}
    }
    for one in scheduler._models.values():
        found |= {
            f"{one.policy.id}.{field.name}": repr(getattr(one, field.name))
            for field in fields(Model)
            if field.name not in _SHOWN_APART
        }
        found[f"{one.policy.id}.requests"] = [*one.waiting], {*one.running}
        found[f"{one.policy.id}.for"] = one.makes_room_for and one.makes_room_for.policy.id
    for device in scheduler._devices.values():
        names = [field.name for field in fields(Device) if field.name not in ("policy", "models", "wake_at")]
        found |= {f"{device.policy.id}.{name}": getattr(device, name) for name in names}
    return found


def decisions(actions: Sequence[Action]) -> list[Action]:
    return [action for action in actions if not isinstance(action, WakeAt)]


class Twins(World):
    """``scheduler`` is told everything; ``twin`` goes the shorter ways."""

    def __post_init__(self) -> None:
        super().__post_init__()
        devices = [DevicePolicy("gpu", self.capacity_bytes)]
        self.twin = Scheduler(self.models.values(), devices, self.policy, 0.0)
        self.twin_wake: float | None = None
        self.short = 0
        """How many of the shorter ways were gone."""

    def handle(self, event: Event) -> None:
        self.happen(event)
        self.settle(self.scheduler.handle(event, self.now), self.shortly(event))

    def shortly(self, event: Event) -> list[Action]:
        match event:
            case Arrived(number, name):
                if self.twin.admit_at_once(number, name, event.mark, self.now):  # type: ignore[arg-type]
                    self.short += 1
                    return [Grant(number)]
            case Finished(number):
                if self.twin.ended_quietly(number, self.now):
                    self.short += 1
                    return []
        return self.twin.handle(event, self.now)

    def settle(self, told: Sequence[Action], shortly: Sequence[Action]) -> None:
        assert decisions(shortly) == decisions(told)
        assert noted(self.twin) == noted(self.scheduler)
        for action in told:
            self.obey(action)
        for action in shortly:
            if isinstance(action, WakeAt):
                self.twin_wake = action.at
        self.check()
        if self.begun and self.rng.random() < 0.2:
            self.check_quiet()
            self.check_twin_quiet()

    def check_twin_quiet(self) -> None:
        """It, too, sleeps through no decision."""
        until = self.now + 1e6 if self.twin_wake is None else self.twin_wake
        earlier = self.now + (until - self.now) * self.rng.random()
        if earlier < until and not CODE.modules:  # a compiled scheduler cannot be copied
            assert decisions(copy.deepcopy(self.twin).handle(Tick(), earlier)) == [], f"slept until {until}"

    def step(self) -> bool:
        timers = [at for at in (self.wake, self.twin_wake) if at is not None]
        timer = min(timers, default=float("inf"))
        if self.heap and self.heap[0][0] <= timer:
            return super().step()
        if not timers:
            return False
        self.now = max(self.now, timer)
        told: list[Action] = []
        shortly: list[Action] = []
        rings, twin_rings = self.wake == timer, self.twin_wake == timer
        if rings:
            self.wake = None
            told = self.scheduler.handle(Tick(), self.now)
        if twin_rings:
            self.twin_wake = None
            shortly = self.twin.handle(Tick(), self.now)
        self.settle(told, shortly)
        return True


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_the_shorter_ways_decide_and_note_the_same(data: st.DataObject) -> None:
    fleet = data.draw(fleets(max_concurrent=4, pins=True))
    policy = data.draw(policies(fleet, soonest_return_s=1))
    faults = Faults(*data.draw(st.tuples(*[st.sampled_from([0.0, 0.3])] * 3)))
    found = data.draw(st.dictionaries(st.sampled_from(sorted(fleet)), FOUND))
    world = Twins(fleet, 12 * GB, policy, random.Random(data.draw(st.integers(0, 99))), faults)
    world.found = [Found(name, state) for name, state in found.items()]
    arrivals = data.draw(ARRIVALS)
    time = 0.0
    for number, (gap, pick) in enumerate(arrivals):
        time += gap
        deadline = data.draw(st.none() | st.floats(0, 200).map(lambda s, t=time: t + s))
        name = sorted(fleet)[pick % len(fleet)]
        world.at(time, Arrived(number, name, deadline, number % 2, data.draw(st.integers(0, 5))))
    for at, event in data.draw(disorders(fleet)):
        world.at(at, event)
    world.at(1000.0, NeighbourUses("gpu", 0))
    world.run()
    world.check_at_rest(range(len(arrivals)))


@pytest.mark.parametrize("seed", range(6))
def test_the_shorter_ways_are_gone_by_most_of_a_busy_day(seed: int) -> None:
    """The same holds: a crowd at one model, now and then somebody for another, promised places."""
    rng = random.Random(seed)
    fleet = {
        "a": ModelPolicy("a", "gpu", 7 * GB, max_concurrent=8, max_queue=4, idle_timeout_s=30),
        "b": ModelPolicy("b", "gpu", 7 * GB, max_concurrent=2, max_queue=2),
        "c": ModelPolicy("c", "gpu", 2 * GB, max_concurrent=3, max_queue=4, idle_timeout_s=20),
    }
    policy = SwitchPolicy(20, 5, default_model="b", return_to_default_after_s=40)
    world = Twins(fleet, 12 * GB, policy, rng)
    time = 0.0
    for number in range(400):
        time += rng.expovariate(0.7 if number % 100 < 60 else 0.1)
        name = rng.choices("abc", [12, 1, 4])[0]
        world.at(time, Arrived(number, name, None, 0, rng.randrange(40)))
    world.run()
    world.check_at_rest(range(400))
    assert world.short > 100


def use(desk: Desk, at: float, number: int, *, shortly: bool) -> None:
    """A request of one second for the model b."""
    if shortly:
        assert desk.scheduler.admit_at_once(number, "b", 0, at)
    else:
        desk.say(at, Arrived(number, "b"))
    if not (shortly and desk.scheduler.ended_quietly(number, at + 1)):
        desk.say(at + 1, Finished(number))


@pytest.mark.parametrize("shortly", [False, True])
def test_a_model_that_is_used_does_not_return_to_the_default_one(shortly: bool) -> None:
    """Each request begins the quiet time anew, also one that ends before the scheduler looks again."""
    policy = SwitchPolicy(default_model="a", return_to_default_after_s=100)
    desk = Desk([model("a"), model("b")], policy=policy).resident("b")
    for number in range(30):
        at = 10.0 * (number + 1)
        use(desk, at, number, shortly=shortly)
        while desk.wake is not None and desk.wake <= at + 9:
            now, desk.wake = desk.wake, None
            desk.say(max(now, at + 1), Tick())
        assert desk.state("b") is State.READY
    assert desk.wake == pytest.approx(401)
    desk.say(401, Tick())
    assert desk.state("b") is State.STOPPING


def test_what_ends_quietly_is_measured_as_well() -> None:
    """Promises to whom a full queue refuses are made of it."""
    desk = Desk([model("a", max_concurrent=2, max_queue=0)]).resident("a")
    for number in range(2):
        assert desk.scheduler.admit_at_once(number, "a", 0, 10)
    assert desk.scheduler.ended_quietly(0, 14)
    history = desk.scheduler._models["a"].history
    assert (history.service.value, history.occupancy.value) == (4, 4)


def test_nothing_has_changed_where_the_short_way_is_refused() -> None:
    desk = Desk(capacity_gb=12).resident("a", busy=2)
    desk.say(1, Arrived(1, "b"))
    before = noted(desk.scheduler)
    assert not desk.scheduler.ended_quietly(900, 2)  # somebody waits for its room
    assert not desk.scheduler.ended_quietly(77, 2)
    assert not desk.scheduler.admit_at_once(2, "b", 0, 2)
    assert noted(desk.scheduler) == before


@pytest.mark.parametrize("shortly", [False, True])
def test_a_lent_place_that_comes_back_was_used_when_it_was_used(shortly: bool) -> None:
    """Whose room is taken first hangs on it."""
    desk = Desk([model("a", max_concurrent=2)]).resident("a")
    assert desk.scheduler.lending.take(7, "a", 10)
    if shortly:
        assert desk.scheduler.ended_quietly(7, 20, 12)
    else:
        desk.say(20, Finished(7, 12))
    assert desk.scheduler._models["a"].idle_since == 12
