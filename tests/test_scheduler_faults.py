"""Failures, departures, operators, idle hours and estimates, one fact at a time."""

from __future__ import annotations

import pytest
from scheduler_desk import GB, Desk, model, refusal

from gateway.scheduler import (
    Arrived,
    CancelStart,
    Died,
    Event,
    Finished,
    Grant,
    Left,
    LoadAsked,
    NeighbourUses,
    Refuse,
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
)

# Failing


def test_a_failed_start_refuses_everybody_with_the_time_of_the_next_try_and_backs_off_doubly() -> None:
    desk = Desk()
    desk.say(0, Arrived(1, "a"), Arrived(2, "a"))
    told = desk.say(10, StartFailed("a", "out of memory"))
    assert [(r.code, r.retry_after_s) for r in told if isinstance(r, Refuse)] == [("start_failed", 2)] * 2
    assert "out of memory" in refusal(told, 1).message
    assert desk.scheduler.view("a").retry_at == 12
    assert desk.say(13, Arrived(3, "a")) == [Start("a")]
    assert refusal(desk.say(20, StartFailed("a", "again")), 3).retry_after_s == 4


def test_in_back_off_a_request_waits_if_its_deadline_allows_and_is_refused_otherwise() -> None:
    desk = Desk()
    desk.say(0, Arrived(1, "a"), StartFailed("a", "no"))
    refused = refusal(desk.say(0.5, Arrived(2, "a", deadline=1.5)), 2)
    assert (refused.code, refused.retry_after_s) == ("start_failed", 1.5)
    assert desk.say(0.5, Arrived(3, "a", deadline=60)) == []
    assert desk.wake == 2
    assert desk.say(2, Tick()) == [Start("a")]


def test_who_waits_for_another_model_gets_its_turn_when_a_start_fails() -> None:
    desk = Desk()
    desk.say(0, Arrived(1, "a"), Arrived(2, "b"))
    assert Start("b") in desk.say(10, StartFailed("a", "no"))


@pytest.mark.parametrize("gb", [8, 0])
def test_a_dead_engine_is_stopped_and_restarted_at_once_for_those_who_wait(gb: float) -> None:
    desk = Desk([model("a", gb, max_concurrent=1)]).resident("a", busy=1)
    desk.say(5, Arrived(1, "a"))
    assert desk.say(6, Died("a", "killed")) == [Stop("a", force=True)]
    desk.say(6, Finished(900))
    assert desk.say(7, Stopped("a")) == [Start("a")]
    assert desk.say(9, Started("a")) == [Grant(1)]


def test_an_engine_that_dies_again_and_again_backs_off() -> None:
    desk = Desk().resident("a")
    desk.say(1, Died("a", "first"), Stopped("a"), Arrived(1, "a"), Started("a"), Finished(1))
    desk.say(2, Died("a", "second"), Stopped("a"))
    assert desk.state("a") is State.FAILED
    assert desk.scheduler.view("a").retry_at == 4


def test_what_could_not_be_stopped_is_stopped_by_force_later_and_its_memory_is_not_given_away() -> None:
    desk = Desk().resident("a")
    desk.say(1, Arrived(1, "b"))
    assert desk.say(2, StopFailed("a", "still there")) == []
    assert desk.wake == 4
    assert desk.say(4, Tick()) == [Stop("a", force=True)]
    assert desk.say(5, Stopped("a")) == [Start("b")]


def test_who_waits_for_what_could_not_be_stopped_waits_for_the_next_tries() -> None:
    desk = Desk(policy=SwitchPolicy(backoff_initial_s=60, backoff_max_s=120)).resident("a")
    desk.say(1, Arrived(1, "b"), StopFailed("a", "its supervisor is gone"))
    assert desk.say(31, Tick()) == []  # due long ago, and the next try is to come
    assert desk.say(61, Tick()) == [Stop("a", force=True)]
    assert desk.say(62, Stopped("a")) == [Start("b")]


def test_who_waits_for_what_can_never_be_stopped_is_told_when_it_is_tried_again() -> None:
    desk = Desk().resident("a")
    desk.say(1, Arrived(1, "b"))
    for at in (2, 10, 20):
        assert desk.say(at, StopFailed("a", "still there")) == []
        desk.say(at + 9, Tick())
    desk.say(30, StopFailed("a", "still there"))
    refused = refusal(desk.say(31, Tick()), 1)
    assert (refused.code, refused.retry_after_s) == ("does_not_fit", 15)


def test_who_is_sent_away_by_an_unload_is_told_when_to_come_back() -> None:
    desk = Desk().resident("a", busy=1)
    desk.say(1, Arrived(1, "b"))
    told = refusal(desk.say(2, UnloadAsked("b")), 1)
    assert (told.code, told.retry_after_s) == ("unloaded", 45)  # a stop and a load of 8 GB, both guessed


# Leaving


def test_a_load_is_cancelled_when_its_last_waiter_leaves_and_started_again_for_the_next() -> None:
    desk = Desk()
    desk.say(0, Arrived(1, "a"), Arrived(2, "a"))
    assert desk.say(1, Left(1)) == []
    assert desk.say(2, Left(2)) == [CancelStart("a")]
    assert desk.say(3, Arrived(3, "a")) == []
    assert desk.say(4, Stopped("a")) == [Start("a")]


@pytest.mark.parametrize("outcome", [Started("a"), StartFailed("a", "killed")])
def test_a_load_that_ends_before_its_cancellation_leaves_nothing_behind(outcome: Event) -> None:
    desk = Desk()
    desk.say(0, Arrived(1, "a"), Left(1))
    desk.say(1, outcome, Stopped("a"))
    assert desk.state("a") is State.STOPPED
    assert desk.say(2, Arrived(2, "b")) == [Start("b")]


def test_abandoned_loads_can_be_kept_and_loads_that_were_asked_for_always_are() -> None:
    kept = Desk(policy=SwitchPolicy(keep_abandoned_loads=True))
    assert kept.say(0, Arrived(1, "a"), Left(1)) == [Start("a")]
    asked = Desk()
    assert asked.say(0, LoadAsked("a"), Arrived(1, "a"), Left(1)) == [Start("a")]


def test_leaving_while_granted_releases_the_permit_once() -> None:
    desk = Desk([model("a", max_concurrent=1)]).resident("a", busy=1)
    desk.say(1, Arrived(1, "a"), Arrived(2, "a"))
    assert desk.say(2, Left(900), Finished(900)) == [Grant(1)]
    assert desk.scheduler.view("a").in_flight == 1


def test_a_deadline_that_passes_refuses_the_request_on_time() -> None:
    desk = Desk()
    desk.say(0, Arrived(1, "a", deadline=5))
    assert desk.wake == 5
    assert refusal(desk.say(5, Tick()), 1).code == "deadline"
    with pytest.raises(KeyError):  # nothing of it is kept
        desk.scheduler.outlook(1, 6)


# Operators, and idle hours


@pytest.mark.parametrize("gb", [8, 0])
def test_unload_drains_and_refuses_who_waits_and_the_next_request_loads_again(gb: float) -> None:
    desk = Desk([model("a", gb, max_concurrent=1)]).resident("a", busy=1)
    desk.say(1, Arrived(1, "a"))
    assert refusal(desk.say(2, UnloadAsked("a")), 1).code == "unloaded"
    assert desk.say(2, Arrived(3, "a", deadline=2.5)) == []
    assert refusal(desk.say(2.5, Tick()), 3).code == "deadline"
    assert desk.say(3, Finished(900)) == [Stop("a")]
    assert desk.say(4, Stopped("a")) == []
    assert desk.say(5, Arrived(2, "a")) == [Start("a")]


def test_only_a_forced_unload_stops_what_is_running() -> None:
    desk = Desk().resident("a", busy=1)
    assert desk.say(1, UnloadAsked("a")) == []
    assert desk.say(2, UnloadAsked("a", force=True)) == [Stop("a", force=True)]


def test_a_load_that_is_asked_for_waits_its_turn_like_a_request_and_ends_a_back_off() -> None:
    desk = Desk().resident("a", busy=1)
    desk.say(0, LoadAsked("b"))
    desk.say(30, Tick())
    assert desk.state("a") is State.DRAINING
    other = Desk()
    other.say(0, Arrived(1, "a"), StartFailed("a", "no"))
    assert other.say(0.1, LoadAsked("a")) == [Start("a")]


def test_preloads_are_those_that_fit_together_pinned_first() -> None:
    fleet = [
        model("a", 8, preload=True),
        model("b", 8, preload=True, pinned=True),
        model("c", 4, preload=True),
    ]
    desk = Desk(fleet, begun=False)
    assert desk.say(0, NeighbourUses("gpu", 0)) == []  # only a Tick begins them
    assert desk.say(0, Tick()) == [Start("b"), Start("c")]


def test_an_idle_model_is_stopped_after_its_time_out_unless_it_is_pinned() -> None:
    desk = Desk([model("a", 4, idle_timeout_s=60), model("b", 4, idle_timeout_s=60, pinned=True)])
    desk.resident("a").resident("b")
    desk.say(50, Arrived(1, "a"))
    desk.say(55, Finished(1))
    assert desk.wake == 115
    assert desk.say(115, Tick()) == [Stop("a")]


def test_the_default_model_comes_back_once_the_device_was_quiet() -> None:
    desk = Desk(policy=SwitchPolicy(default_model="a", return_to_default_after_s=300)).resident("a")
    desk.say(10, Arrived(1, "b"))
    desk.say(12, Stopped("a"))
    desk.say(40, Started("b"))
    desk.say(50, Finished(1))
    assert desk.wake == 350
    assert desk.say(350, Tick()) == [Stop("b")]
    assert desk.say(352, Stopped("b")) == [Start("a")]
    desk.say(380, Started("a"))
    assert desk.say(2000, Tick()) == []


def test_a_default_model_without_a_registry_entry_is_refused_at_construction() -> None:
    with pytest.raises(ValueError, match="default_model 'c'"):
        Desk(policy=SwitchPolicy(default_model="c"))


# Estimates


def test_nothing_is_estimated_before_it_was_measured() -> None:
    desk = Desk()
    desk.say(0, Arrived(1, "a"))
    assert desk.scheduler.outlook(1, 1).eta_s is None
    assert desk.scheduler.retry_after_s("a", 1) == 40  # a guess from its 8 GB, for whoever is to come back


def test_the_outlook_follows_a_request_from_queue_to_engine_with_measured_times() -> None:
    desk = Desk().resident("a")
    desk.say(0, Arrived(1, "b"))
    desk.say(3, Stopped("a"))  # a stop of 3 s
    desk.say(23, Started("b"))  # a load of 20 s
    desk.say(33, Finished(1))  # a service of 10 s
    desk.say(40, LoadAsked("a"), Stopped("b"))
    desk.say(70, Started("a"))  # a load of 30 s
    desk.say(71, Arrived(2, "a"))
    desk.say(72, Arrived(3, "b"))
    outlook = desk.scheduler.outlook(3, 72)
    assert (outlook.phase, outlook.position) == ("queued", 1)
    desk.say(81, Finished(2))
    outlook = desk.scheduler.outlook(3, 82)
    assert outlook.phase == "draining"
    assert outlook.eta_s == pytest.approx(2 + 20)
    desk.say(84, Stopped("a"))
    outlook = desk.scheduler.outlook(3, 89)
    assert outlook.phase == "loading"
    assert outlook.eta_s == pytest.approx(15)
    desk.say(104, Started("b"))
    assert desk.scheduler.outlook(3, 104).phase == "ready"


def test_the_view_has_what_a_person_asks_for() -> None:
    desk = Desk([model("a", max_concurrent=1)])
    desk.say(0, Arrived(1, "a"), Arrived(2, "a"))
    desk.say(20, Started("a"))
    view = desk.scheduler.view("a")
    assert (view.state, view.since, view.waiting, view.in_flight) == (State.READY, 20, 1, 1)
    assert (view.last_start_s, view.footprint_bytes, view.retry_at) == (20, 8 * GB, None)
