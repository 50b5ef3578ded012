"""What the scheduler decides, one fact at a time. Times are seconds on an imagined clock."""

from __future__ import annotations

import pytest
from scheduler_desk import GB, MAX_WAIT_S, MIN_RESIDENCY_S, Desk, model, refusal

from gateway.scheduler import (
    Arrived,
    Died,
    Finished,
    FootprintLearnt,
    Grant,
    Left,
    LoadAsked,
    NeighbourUses,
    Start,
    Started,
    State,
    Stop,
    Stopped,
    Tick,
    UnloadAsked,
)
from gateway.switching.vocabulary import ReplicasChanged

# Coming in


def test_the_first_request_starts_its_model_and_is_granted_when_it_is_there() -> None:
    desk = Desk()
    assert desk.say(0, Arrived(1, "a")) == [Start("a")]
    assert desk.say(1, Arrived(2, "a")) == []
    assert desk.say(30, Started("a")) == [Grant(1), Grant(2)]
    assert desk.say(31, Arrived(3, "a")) == [Grant(3)]


def test_models_that_fit_together_are_started_together() -> None:
    desk = Desk(capacity_gb=24)
    assert desk.say(0, Arrived(1, "a"), Arrived(2, "b")) == [Start("a"), Start("b")]


def test_max_concurrent_counts_once_for_each_replica() -> None:
    desk = Desk([model("a", max_concurrent=2, managed=False)])
    desk.say(0, *(Arrived(request, "a") for request in range(1, 8)))
    assert desk.scheduler.view("a").in_flight == 2

    assert desk.say(1, ReplicasChanged("a", 3)) == [Grant(3), Grant(4), Grant(5), Grant(6)]
    assert desk.say(2, ReplicasChanged("a", 1), Finished(1), Finished(2), Finished(3), Finished(4)) == []
    assert desk.say(3, Finished(5)) == [Grant(7)]


def test_a_model_whose_replicas_are_all_bad_counts_as_one() -> None:
    desk = Desk([model("a", max_concurrent=1, managed=False)])
    assert desk.say(0, ReplicasChanged("a", 0), Arrived(1, "a"), Arrived(2, "a")) == [Grant(1)]


def test_beyond_max_concurrent_requests_wait_and_go_by_priority_then_age() -> None:
    desk = Desk([model("a", max_concurrent=1)]).resident("a", busy=1)
    assert desk.say(1, Arrived(1, "a"), Arrived(2, "a", priority=1), Arrived(3, "a", priority=1)) == []
    assert desk.say(2, Finished(900)) == [Grant(2)]
    assert desk.say(3, Finished(2)) == [Grant(3)]


def test_a_request_that_waited_max_wait_comes_before_all_priorities() -> None:
    desk = Desk([model("a", max_concurrent=1)]).resident("a", busy=1)
    desk.say(1, Arrived(1, "a"))
    desk.say(31, Arrived(2, "a", priority=9))
    assert desk.say(31, Finished(900)) == [Grant(1)]


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    desk = Desk([model("a", max_concurrent=1, max_queue=1)]).resident("a", busy=1)
    desk.say(5, Finished(900), Arrived(1, "a"), Arrived(2, "a"))
    refused = refusal(desk.say(5, Arrived(3, "a")), 3)
    assert refused.code == "queue_full"
    assert (
        refused.retry_after_s == 6
    )  # requests take 5 s, one at a time: one place is free then, with a margin


def test_an_unknown_model_is_refused_and_unknown_requests_are_ignored() -> None:
    desk = Desk()
    assert refusal(desk.say(0, Arrived(1, "c")), 1).code == "unknown_model"
    assert desk.say(0, Finished(7), Left(7), Started("c")) == []


# Handing over


def test_a_busy_resident_serves_on_until_somebody_waited_max_wait_then_drains_and_is_never_killed() -> None:
    desk = Desk().resident("a", busy=1)
    assert desk.say(20, Arrived(1, "b")) == []
    assert desk.say(49.9, Arrived(2, "a")) == [Grant(2)]
    assert desk.say(50, Tick()) == []
    assert desk.state("a") is State.DRAINING
    assert desk.say(51, Arrived(3, "a"), Finished(900)) == []
    assert desk.say(55, Finished(2)) == [Stop("a")]
    assert desk.say(58, Stopped("a")) == [Start("b")]
    assert desk.say(90, Started("b")) == [Grant(1)]


def test_the_timer_names_the_moment_at_which_the_hand_over_is_due() -> None:
    desk = Desk().resident("a", busy=1)
    desk.say(20, Arrived(1, "b"), Tick())
    assert desk.wake == 50


def test_an_idle_resident_hands_over_at_once() -> None:
    assert Desk().resident("a").say(1, Arrived(1, "b")) == [Stop("a")]


def test_an_idle_resident_that_is_asked_often_is_held_for_its_next_request() -> None:
    desk = Desk()
    desk.say(0, LoadAsked("a"))
    desk.say(30, Started("a"))
    for n in range(5):  # a request every two seconds
        desk.say(40 + 2 * n, Arrived(10 + n, "a"), Finished(10 + n))
    assert desk.say(49, Arrived(2, "b")) == []
    assert desk.say(50, Arrived(20, "a")) == [Grant(20)]
    desk.say(50.5, Finished(20))
    assert desk.wake == pytest.approx(50 + 3 * 2)
    assert desk.say(56, Tick()) == [Stop("a")]


def test_a_model_that_got_in_keeps_the_device_for_its_minimum_residency() -> None:
    desk = Desk().resident("a", busy=1)
    desk.say(1, Arrived(1, "b"))
    desk.say(31, Tick(), Finished(900), Arrived(2, "a"), Stopped("a"))
    assert desk.say(80, Started("b")) == [Grant(1)]  # request 2 has waited long enough already
    assert desk.state("b") is State.READY
    assert desk.wake == 80 + MIN_RESIDENCY_S
    desk.say(90, Tick())
    assert desk.state("b") is State.DRAINING


def test_a_hand_over_nobody_waits_for_any_more_is_taken_back() -> None:
    desk = Desk().resident("a", busy=1)
    desk.say(0, Arrived(1, "b"))
    desk.say(31, Tick(), Arrived(2, "a"))
    assert desk.state("a") is State.DRAINING
    assert desk.say(32, Left(1)) == [Grant(2)]
    assert desk.state("a") is State.READY


def test_older_waiters_of_the_drained_model_do_not_turn_the_hand_over_back() -> None:
    desk = Desk([model("a", max_concurrent=1), model("b")]).resident("a", busy=1)
    desk.say(1, Arrived(1, "a"))
    desk.say(2, Arrived(2, "b"))
    desk.say(32, Tick())
    assert desk.say(33, Finished(900)) == [Stop("a")]
    assert desk.say(34, Stopped("a")) == [Start("b")]


def test_a_request_whose_deadline_is_nearer_than_max_wait_gets_an_earlier_hand_over() -> None:
    desk = Desk()
    for name, at in (("b", 0), ("a", 30)):  # loads of 20 s and a stop of 2 s are measured
        desk.say(at, LoadAsked(name))
        desk.say(at + 2, Stopped("b"))
        desk.say(at + 22, Started(name))
    desk.say(60, Arrived(1, "a"))
    desk.say(62, Arrived(2, "b", deadline=62 + 45))
    desk.say(86.9, Tick())
    assert desk.state("a") is State.READY
    desk.say(87, Tick())  # 20 s before the deadline: what the load takes
    assert desk.state("a") is State.DRAINING


@pytest.mark.parametrize(("priority", "state"), [(0, State.READY), (1, State.DRAINING)])
def test_a_model_of_higher_priority_waits_for_the_minimum_residency_only(priority: int, state: State) -> None:
    desk = Desk([model("a"), model("b", priority=priority)]).resident("a", busy=1)
    desk.say(5, Arrived(1, "b"))
    assert desk.state("a") is State.READY
    desk.say(11, Tick())
    assert desk.state("a") is state


def test_among_those_who_are_due_the_longest_waiting_comes_first_whatever_the_priority() -> None:
    desk = Desk([model("a"), model("b"), model("c", priority=9)]).resident("a", busy=1)
    desk.say(1, Arrived(1, "b"))
    desk.say(2, Arrived(2, "c"))
    desk.say(9, Arrived(3, "a"), Finished(900))
    desk.say(40, Tick(), Finished(3))
    assert desk.say(41, Stopped("a")) == [Start("b")]


# Room


def test_the_victims_are_those_whose_loss_costs_least() -> None:
    fleet = [model("busy", 5), model("idle", 4), model("small", 3), model("new", 4)]
    desk = Desk(fleet).resident("busy", busy=2).resident("idle").resident("small", busy=1)
    assert desk.say(1, Arrived(1, "new")) == [Stop("idle")]


def test_no_more_is_evicted_than_is_needed() -> None:
    fleet = [model("x", 3), model("y", 3), model("z", 6), model("new", 5)]
    desk = Desk(fleet).resident("x").resident("y").resident("z")
    assert desk.say(1, Arrived(1, "new")) == [Stop("z")]


def test_a_younger_demand_does_not_take_the_room_an_older_one_needs() -> None:
    fleet = [model("a", 5), model("big", 10), model("small", 6)]
    desk = Desk(fleet).resident("a", busy=1)
    assert desk.say(1, Arrived(1, "big")) == []
    assert desk.say(2, Arrived(2, "small")) == []  # it would fit now, and big would have to wait for it
    desk.say(31, Tick(), Finished(900))
    assert desk.say(33, Stopped("a")) == [Start("big")]


def test_a_pinned_model_is_never_evicted_and_what_needs_its_room_is_refused_with_figures() -> None:
    desk = Desk([model("a", pinned=True), model("b")]).resident("a")
    refused = refusal(desk.say(1, Arrived(1, "b")), 1)
    assert refused.code == "does_not_fit"
    assert "8.00 GB" in refused.message
    assert desk.state("a") is State.READY


def test_a_model_larger_than_its_device_is_refused_at_once() -> None:
    desk = Desk([model("a", 13)])
    assert refusal(desk.say(0, Arrived(1, "a")), 1).code == "does_not_fit"


def test_room_that_a_neighbour_takes_is_waited_for_and_then_refused_with_figures() -> None:
    desk = Desk()
    assert desk.say(0, NeighbourUses("gpu", 5 * GB), Arrived(1, "a"), Arrived(2, "a")) == []
    assert desk.wake == MAX_WAIT_S
    refused = refusal(desk.say(30, Tick()), 2)
    assert refused.code == "does_not_fit"
    assert "7.00 GB" in refused.message
    assert "5.00 GB" in refused.message
    desk.say(31, Arrived(3, "a"))
    assert desk.say(32, NeighbourUses("gpu", 1 * GB)) == [Start("a")]


def test_a_learnt_footprint_replaces_the_declared_one_but_never_exceeds_the_device() -> None:
    desk = Desk([model("a", 8), model("b", 4)])
    desk.say(0, Arrived(1, "a"), Started("a", 3 * GB))
    assert desk.say(1, Arrived(2, "b")) == [Start("b")]
    desk.say(2, FootprintLearnt("a", 99 * GB))
    assert desk.scheduler.view("a").footprint_bytes == 12 * GB


def test_an_unmanaged_model_is_ready_costs_nothing_and_is_never_started_or_stopped() -> None:
    desk = Desk([model("a"), model("far", 99, managed=False)]).resident("a")
    assert desk.say(1, Arrived(1, "far"), LoadAsked("far"), UnloadAsked("far", force=True)) == [Grant(1)]
    desk.say(2, Died("far", "connection refused"))
    assert refusal(desk.say(3, Arrived(2, "far")), 2).code == "unavailable"
    assert desk.say(4, Started("far"), Arrived(3, "far")) == [Grant(3)]
