"""What holds memory when the gateway starts, and what is to be resident anyway, one fact at a time."""

from __future__ import annotations

import pytest
from scheduler_desk import GB, MAX_WAIT_S, Desk, model, refusal

from gateway.scheduler import (
    Arrived,
    Changed,
    Died,
    Event,
    Finished,
    Found,
    Grant,
    LoadAsked,
    NeighbourUses,
    Start,
    Started,
    State,
    Stop,
    StopFailed,
    Stopped,
    SwitchPolicy,
    Tick,
    UnloadAsked,
    WakeAt,
)

PRELOADED = [model("a", preload=True), model("b")]


@pytest.mark.parametrize(
    ("event", "state", "actions"),
    [
        (Found("b", "ready"), State.READY, []),
        (Found("b", "starting"), State.STARTING, [Start("b")]),
        (Found("b", "stopping"), State.STOPPING, [Stop("b")]),
    ],
    ids=lambda value: value.state if isinstance(value, Found) else "",
)
def test_what_is_found_is_booked_told_and_joined_and_nothing_else_begins(
    event: Found, state: State, actions: list[object]
) -> None:
    desk = Desk(PRELOADED, begun=False)
    told = desk.scheduler.handle(event, 0)
    assert [a for a in told if not isinstance(a, Changed)] == actions
    assert [(a.model, a.state) for a in told if isinstance(a, Changed)] == [("b", state)]
    assert desk.state("b") is state
    assert desk.state("a") is State.STOPPED


def test_a_preload_is_not_started_beside_a_load_that_was_found_and_takes_its_turn_after_it() -> None:
    desk = Desk(PRELOADED, begun=False)
    assert desk.say(0, Found("b", "starting")) == [Start("b")]
    assert desk.say(0, Tick()) == []
    assert desk.say(20, Started("b")) == [Stop("b")]
    assert desk.say(22, Stopped("b")) == [Start("a")]


def test_a_load_that_was_found_is_finished_although_nobody_asks_and_its_length_is_not_measured() -> None:
    desk = Desk(begun=False)
    desk.say(0, Found("b", "starting"))
    assert desk.say(1, Tick(), Tick()) == []
    assert desk.say(2, Started("b"), Arrived(1, "b")) == [Grant(1)]
    assert desk.scheduler.view("b").last_start_s is None


def test_a_stop_that_was_found_ends_in_stopped_without_anybody_wanting_it_back() -> None:
    desk = Desk([model("a"), model("b", pinned=True)], begun=False)
    desk.say(0, Found("b", "stopping"), Tick())
    assert desk.say(1, Arrived(1, "a")) == []  # the memory is not free before it is gone
    assert desk.say(3, Stopped("b")) == [Start("a")]
    assert desk.state("b") is State.STOPPED


def test_a_stop_that_was_found_and_does_not_end_is_forced_like_any_other() -> None:
    desk = Desk(begun=False)
    desk.say(0, Found("b", "stopping"), Tick(), StopFailed("b", "still there"))
    assert desk.say(2, Tick()) == [Stop("b", force=True)]


def test_engines_found_beyond_the_capacity_stay_until_a_demand_makes_room_for_all_of_it() -> None:
    desk = Desk([model("a"), model("b"), model("c", 4)], begun=False)
    desk.say(0, Found("a", "ready"), Found("b", "ready"))
    assert desk.say(0, Tick()) == []
    assert (desk.state("a"), desk.state("b")) == (State.READY, State.READY)
    desk.say(1, Arrived(1, "a"))
    assert desk.say(2, Arrived(2, "c")) == [Stop("b")]  # 16 GB of 12 are held: 8 of them must go
    assert desk.say(4, Stopped("b")) == [Start("c")]


def test_a_preload_that_was_found_ready_is_no_longer_wanted_when_it_hands_over() -> None:
    desk = Desk(PRELOADED, begun=False)
    desk.say(0, Found("a", "ready"), Tick())
    assert desk.say(1, Arrived(1, "b")) == [Stop("a")]
    assert desk.say(2, Stopped("a")) == [Start("b")]
    assert desk.say(30, Started("b"), Finished(1)) == [Grant(1)]
    assert desk.say(1000, Tick()) == []


def test_a_preload_that_was_found_on_its_way_out_comes_back() -> None:
    desk = Desk(PRELOADED, begun=False)
    assert desk.say(0, Found("a", "stopping"), Tick()) == [Stop("a")]
    assert desk.say(1, Stopped("a")) == [Start("a")]


def test_an_engine_found_later_serves_who_waits_at_the_tick_that_it_asks_for() -> None:
    desk = Desk()
    desk.say(0, NeighbourUses("gpu", 5 * GB), Arrived(1, "a"))
    assert desk.say(7, Found("a", "ready")) == []
    assert desk.wake == 7
    assert desk.say(7, Tick()) == [Grant(1)]


@pytest.mark.parametrize("state", ["starting", "stopping"])
def test_finding_what_is_known_already_or_is_not_ours_changes_nothing(state: str) -> None:
    desk = Desk([model("a"), model("far", managed=False)]).resident("a")
    found = [Found(name, state) for name in ("a", "far", "nobody")]  # type: ignore[arg-type]
    assert desk.say(1, *found) == []
    assert (desk.state("a"), desk.state("far")) == (State.READY, State.READY)


def test_the_default_model_comes_back_after_another_was_found_in_its_place() -> None:
    policy = SwitchPolicy(default_model="a", return_to_default_after_s=300)
    desk = Desk(policy=policy, begun=False)
    desk.say(0, Found("b", "ready"), Tick())
    assert desk.wake == 300
    assert desk.say(300, Tick()) == [Stop("b")]


def test_a_default_model_that_is_there_already_is_not_asked_for_again() -> None:
    policy = SwitchPolicy(default_model="a", return_to_default_after_s=300)
    fleet = [model("a", 4), model("b", 4, pinned=True), model("c", 8)]
    desk = Desk(fleet, policy=policy).resident("a").resident("b")
    assert desk.say(300, Tick(), Arrived(1, "c")) == [Stop("a")]
    assert desk.say(303, Stopped("a")) == [Start("c")]
    assert desk.say(340, Started("c"), Finished(1)) == [Grant(1)]


# Going without room


def preloaded() -> Desk:
    desk = Desk(PRELOADED, begun=False)
    desk.say(0, NeighbourUses("gpu", 5 * GB), Tick())
    return desk


def pinned_and_dead() -> Desk:
    desk = Desk([model("a", pinned=True), model("b")]).resident("a")
    desk.say(0, Died("a", "killed"), NeighbourUses("gpu", 5 * GB), Stopped("a"))
    return desk


KEEPERS = pytest.mark.parametrize("desk", [preloaded, pinned_and_dead], ids=["preload", "pinned"])


@KEEPERS
def test_what_is_to_be_resident_comes_back_when_the_neighbour_that_held_its_room_leaves(desk: object) -> None:
    waiting: Desk = desk()  # type: ignore[operator]
    assert waiting.wake == MAX_WAIT_S
    assert waiting.say(MAX_WAIT_S, Tick()) == []
    assert "other programs hold 5.00 GB" in str(waiting.scheduler.view("a").reason)
    assert waiting.say(5000, NeighbourUses("gpu", 1 * GB)) == [Start("a")]


@KEEPERS
def test_going_without_room_is_announced_once_and_sets_no_timer(desk: object) -> None:
    waiting: Desk = desk()  # type: ignore[operator]
    first = waiting.scheduler.handle(Tick(), MAX_WAIT_S)
    assert [type(action) for action in first] == [Changed]
    later: list[tuple[float, Event]] = [(31, Tick()), (32, NeighbourUses("gpu", 6 * GB)), (90, Tick())]
    assert [waiting.scheduler.handle(event, at) for at, event in later] == [[], [], []]
    assert "6.00 GB" in str(waiting.scheduler.view("a").reason)


def test_a_request_for_what_goes_without_room_still_waits_max_wait_for_the_neighbour() -> None:
    desk = preloaded()
    desk.say(MAX_WAIT_S, Tick())
    assert desk.say(100, Arrived(1, "a")) == []
    assert desk.wake == 100 + MAX_WAIT_S
    assert refusal(desk.say(100 + MAX_WAIT_S, Tick()), 1).code == "does_not_fit"
    assert desk.say(200, NeighbourUses("gpu", 0)) == [Start("a")]


def test_a_hand_over_for_what_must_go_without_room_after_all_is_taken_back() -> None:
    desk = Desk(PRELOADED, begun=False)
    desk.say(0, Found("b", "ready"), Arrived(1, "b"), Tick())
    desk.say(MAX_WAIT_S, Tick())
    assert desk.state("b") is State.DRAINING
    desk.say(31, NeighbourUses("gpu", 5 * GB))
    assert desk.state("b") is State.READY


def test_a_hand_over_is_taken_back_each_time_that_the_neighbour_comes_back() -> None:
    desk = Desk(PRELOADED, begun=False)
    desk.say(0, Found("b", "ready"), NeighbourUses("gpu", 4 * GB), Arrived(1, "b"), Tick())
    desk.say(5, NeighbourUses("gpu", 5 * GB))
    desk.say(MAX_WAIT_S, Tick())
    desk.say(31, NeighbourUses("gpu", 4 * GB))
    assert desk.state("b") is State.DRAINING
    desk.say(32, NeighbourUses("gpu", 5 * GB))
    assert desk.state("b") is State.READY


def test_a_wish_that_goes_without_room_does_not_keep_the_default_model_away() -> None:
    policy = SwitchPolicy(default_model="c", return_to_default_after_s=300)
    desk = Desk([model("a", preload=True), model("b", 4), model("c", 4)], policy=policy, begun=False)
    desk.say(0, NeighbourUses("gpu", 5 * GB), Found("b", "ready"), Tick())
    desk.say(MAX_WAIT_S, Tick())
    assert desk.wake == MAX_WAIT_S + 300
    assert desk.say(MAX_WAIT_S + 300, Tick()) == [Stop("b")]


def test_asking_for_what_goes_without_room_is_answered_again() -> None:
    desk = preloaded()
    desk.say(MAX_WAIT_S, Tick())
    told = desk.scheduler.handle(LoadAsked("a"), 60)
    assert [type(action) for action in told] == [Changed]


def test_a_load_that_somebody_asked_for_is_dropped_when_there_is_no_room() -> None:
    desk = Desk()
    desk.say(0, NeighbourUses("gpu", 5 * GB), LoadAsked("a"))
    desk.say(MAX_WAIT_S, Tick())
    assert desk.say(31, NeighbourUses("gpu", 0)) == []


def test_an_unload_ends_the_wish_of_what_goes_without_room() -> None:
    desk = preloaded()
    desk.say(MAX_WAIT_S, Tick(), UnloadAsked("a"))
    assert desk.say(200, NeighbourUses("gpu", 0)) == []


def test_there_is_no_timer_before_the_first_tick() -> None:
    desk = Desk(begun=False)
    told = desk.scheduler.handle(Arrived(1, "a", deadline=5), 0)
    assert not any(isinstance(action, WakeAt) for action in told)
    assert WakeAt(5) in desk.scheduler.handle(Tick(), 0)
