"""Time lost to switching: from the first that takes no more work to the newcomer being ready."""

from __future__ import annotations

import pytest

from gateway.metrics import Metrics
from gateway.scheduler import Changed, State
from gateway.switch_costs import SwitchCosts

LOST, SWITCHES = "gateway_switch_lost_seconds_total", "gateway_switches_total"


class Desk:
    def __init__(self) -> None:
        self.metrics = Metrics()
        self.costs = SwitchCosts(self.metrics, {"a": "gpu", "b": "gpu", "c": "gpu"})

    def say(self, now: float, model: str, state: State, makes_room_for: str | None = None) -> None:
        self.costs.changed(Changed(model, state, None, makes_room_for), now)

    def lost(self, model: str) -> float:
        return self.metrics.value(LOST, {"model": model})

    def switches(self, model: str) -> float:
        return self.metrics.value(SWITCHES, {"model": model})


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_it_begins_with_the_drain_and_ends_with_ready(desk: Desk) -> None:
    desk.say(10, "a", State.DRAINING, "b")
    desk.say(12, "a", State.STOPPING, "b")
    desk.say(13, "a", State.STOPPED)
    desk.say(13, "b", State.STARTING)
    desk.say(20, "b", State.READY)
    assert (desk.lost("b"), desk.switches("b")) == (10, 1)
    assert (desk.lost("a"), desk.switches("a")) == (0, 0)


def test_a_first_load_and_an_idle_stop_are_no_switch(desk: Desk) -> None:
    desk.say(0, "a", State.STARTING)
    desk.say(5, "a", State.READY)
    desk.say(60, "a", State.STOPPING)
    desk.say(61, "a", State.STOPPED)
    desk.say(90, "b", State.STARTING)
    desk.say(95, "b", State.READY)
    assert desk.lost("a") == desk.lost("b") == 0


def test_a_hand_over_that_is_taken_back_costs_nothing(desk: Desk) -> None:
    desk.say(10, "a", State.DRAINING, "b")
    desk.say(12, "a", State.READY)
    desk.say(50, "b", State.STARTING)
    desk.say(60, "b", State.READY)
    assert desk.lost("b") == 0


def test_room_that_nobody_used_at_once_was_not_made_for_who_comes_later(desk: Desk) -> None:
    desk.say(10, "a", State.DRAINING, "b")
    desk.say(12, "a", State.STOPPED)
    desk.say(500, "b", State.STARTING)
    desk.say(505, "b", State.READY)
    assert desk.lost("b") == 0


def test_a_start_that_failed_lost_its_time_and_is_no_switch(desk: Desk) -> None:
    desk.say(10, "a", State.DRAINING, "b")
    desk.say(11, "a", State.STOPPED)
    desk.say(11, "b", State.STARTING)
    desk.say(15, "b", State.FAILED)
    assert (desk.lost("b"), desk.switches("b")) == (5, 0)


def test_overlapping_switches_of_a_device_count_each_second_once(desk: Desk) -> None:
    desk.say(10, "a", State.DRAINING, "b")
    desk.say(11, "b", State.DRAINING, "c")
    desk.say(12, "a", State.STOPPED)
    desk.say(12, "b", State.STOPPED)
    desk.say(12, "c", State.STARTING)
    desk.say(12, "b", State.STARTING)
    desk.say(15, "b", State.READY)
    desk.say(17, "c", State.READY)
    assert desk.lost("b") + desk.lost("c") == 7
