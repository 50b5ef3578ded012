"""What the scheduler decides, one fact at a time. Times are seconds on an imagined clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from gateway.scheduler import (
    Action,
    Arrived,
    CancelStart,
    Changed,
    DevicePolicy,
    Died,
    Event,
    Finished,
    FootprintLearnt,
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

GB = 10**9
MAX_WAIT_S, MIN_RESIDENCY_S = 30.0, 10.0


def model(name: str, gb: float = 8, **settings: object) -> ModelPolicy:
    return ModelPolicy(name, "gpu", int(gb * GB), **settings)  # type: ignore[arg-type]


@dataclass
class Desk:
    """A scheduler of which one says what happens and sees what it does. Announcements are left out."""

    models: list[ModelPolicy] = field(default_factory=lambda: [model("a"), model("b")])
    capacity_gb: float = 12
    policy: SwitchPolicy = field(default_factory=SwitchPolicy)

    def __post_init__(self) -> None:
        devices = [DevicePolicy("gpu", int(self.capacity_gb * GB))]
        self.scheduler = Scheduler(self.models, devices, self.policy, 0.0)
        self.wake: float | None = None

    def say(self, at: float, *events: Event) -> list[Action]:
        told: list[Action] = []
        for event in events:
            for action in self.scheduler.handle(event, at):
                if isinstance(action, WakeAt):
                    self.wake = action.at
                elif not isinstance(action, Changed):
                    told.append(action)
        return told

    def state(self, name: str) -> State:
        return self.scheduler.view(name).state

    def resident(self, name: str, *, at: float = 0.0, busy: int = 0) -> Desk:
        """Brings the model in, with ``busy`` requests (900, 901, …) in flight."""
        self.say(at, LoadAsked(name), Started(name), *(Arrived(900 + n, name) for n in range(busy)))
        return self


def refusal(actions: list[Action], request_id: int) -> Refuse:
    (found,) = [a for a in actions if isinstance(a, Refuse) and a.request_id == request_id]
    return found


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
    assert refused.retry_after_s == pytest.approx(10)  # two requests of 5 s, one at a time


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


def test_a_dead_engine_is_stopped_and_restarted_at_once_for_those_who_wait() -> None:
    desk = Desk([model("a", max_concurrent=1)]).resident("a", busy=1)
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


def test_unload_drains_and_refuses_who_waits_and_the_next_request_loads_again() -> None:
    desk = Desk([model("a", max_concurrent=1)]).resident("a", busy=1)
    desk.say(1, Arrived(1, "a"))
    assert refusal(desk.say(2, UnloadAsked("a")), 1).code == "unloaded"
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
    assert Desk(fleet).say(0, Tick()) == [Start("b"), Start("c")]


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
    assert desk.scheduler.retry_after_s("a", 1) is None


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
    assert (outlook.phase, outlook.eta_s) == ("draining", pytest.approx(2 + 20))
    desk.say(84, Stopped("a"))
    outlook = desk.scheduler.outlook(3, 89)
    assert (outlook.phase, outlook.eta_s) == ("loading", pytest.approx(15))
    desk.say(104, Started("b"))
    assert desk.scheduler.outlook(3, 104).phase == "ready"


def test_the_view_has_what_a_person_asks_for() -> None:
    desk = Desk([model("a", max_concurrent=1)])
    desk.say(0, Arrived(1, "a"), Arrived(2, "a"))
    desk.say(20, Started("a"))
    view = desk.scheduler.view("a")
    assert (view.state, view.since, view.waiting, view.in_flight) == (State.READY, 20, 1, 1)
    assert (view.last_start_s, view.footprint_bytes, view.retry_at) == (20, 8 * GB, None)
