"""What those who wait are told: never a time that is known to be wrong, and cheap to find out."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from scheduler_desk import Desk, model

from gateway.scheduler import Arrived, Left, LoadAsked, Started, Stopped


def test_a_load_that_is_overdue_has_no_estimate_any_more() -> None:
    desk = Desk()
    desk.say(0, LoadAsked("a"))
    desk.say(20, Started("a"))  # a load of 20 s
    desk.say(30, LoadAsked("b"), Stopped("a"), Started("b"))
    desk.say(40, Arrived(1, "a"), Stopped("b"))
    for at, left_s in ((41, 19), (59.5, 0.5), (60, None), (75, None)):
        assert desk.scheduler.outlook(1, at).eta_s == left_s
        assert desk.scheduler.retry_after_s("a", at) == (20 if left_s is None else left_s)


def test_a_position_counts_who_came_before_with_at_least_the_same_priority() -> None:
    desk = Desk([model("a")])
    desk.say(0, *(Arrived(n, "a", priority=p) for n, p in enumerate((0, 1, 0, 2, 1, 0))))
    positions = [desk.scheduler.outlook(n, 0).position for n in range(6)]
    assert positions == [1, 1, 3, 1, 3, 6]
    desk.say(1, Left(1), Left(3))
    positions = [desk.scheduler.outlook(n, 1).position for n in (0, 2, 4, 5)]
    assert positions == [1, 2, 1, 4]
    desk.say(2, Started("a"))
    assert desk.scheduler.outlook(5, 2).position == 0


def crowd(waiting: int) -> Desk:
    desk = Desk([model("a", max_concurrent=1, max_queue=waiting)]).resident("a", busy=1)
    desk.say(1, *(Arrived(1000 + n, "a", priority=n % 2) for n in range(waiting)))
    return desk


def lines_run(desk: Desk, request_id: int) -> int:
    """Lines of Python that one outlook takes."""
    lines = 0

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        desk.scheduler.outlook(request_id, 2)
    finally:
        sys.settrace(before)
    return lines


def test_an_outlook_costs_the_same_behind_two_thousand_as_behind_one() -> None:
    alone, behind_all = lines_run(crowd(2), 1000), lines_run(crowd(2000), 2998)
    assert crowd(2000).scheduler.outlook(2998, 2).position == 2000 - 1
    assert 0 < behind_all <= 2 * alone
