"""A full queue: what refused requests are told is true, and costs the engine nothing."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from scheduler_desk import Desk, model, refusal

from gateway.scheduler import Arrived, Finished, Grant, Refuse
from gateway.switching.promises import GRACE_S, LEAD_S, MOST_PROMISES, Promises


def full(max_queue: int = 4) -> Desk:
    """One slot, requests of 10 s each, and a queue that is full at 10."""
    desk = Desk([model("a", max_concurrent=1, max_queue=max_queue)]).resident("a", busy=1)
    desk.say(10, Finished(900), *(Arrived(n, "a") for n in range(max_queue + 1)))
    return desk


def test_each_refused_request_is_told_a_place_of_its_own() -> None:
    desk = full()
    told = [refusal(desk.say(10, Arrived(10 + n, "a", mark=n)), 10 + n).retry_after_s for n in range(3)]
    assert told == [11, 22, 33]  # one place every 10 s, and a tenth to be on the safe side


def test_a_place_is_kept_for_who_was_told_to_come_back() -> None:
    desk = full()
    refusal(desk.say(10, Arrived(10, "a", mark=7)), 10)
    assert desk.say(20, Finished(0)) == [Grant(1)]  # a place is free, and it is not for newcomers
    assert refusal(desk.say(20.6, Arrived(11, "a", mark=8)), 11).code == "queue_full"
    assert desk.say(21, Arrived(12, "a", mark=7)) == []
    assert desk.scheduler.outlook(12, 21).position == 4


def test_who_comes_too_early_is_told_the_same_time_and_loses_nothing() -> None:
    desk = full()
    refusal(desk.say(10, Arrived(10, "a", mark=7)), 10)
    assert refusal(desk.say(14, Arrived(11, "a", mark=7)), 11).retry_after_s == 7
    desk.say(20, Finished(0))
    assert desk.say(21, Arrived(12, "a", mark=7)) == []


def test_a_place_that_nobody_fetches_goes_to_whoever_comes() -> None:
    desk = full()
    refusal(desk.say(10, Arrived(10, "a", mark=7)), 10)
    desk.say(20, Finished(0))
    late = 21 + GRACE_S
    assert refusal(desk.say(late - 0.1, Arrived(11, "a")), 11).code == "queue_full"
    assert desk.say(late + 0.1, Arrived(12, "a")) == []


def test_who_came_as_told_and_found_no_place_is_told_the_very_next_one() -> None:
    desk = full()
    for number in range(5):
        refusal(desk.say(10, Arrived(10 + number, "a", mark=number)), 10 + number)
    assert refusal(desk.say(21, Arrived(20, "a", mark=0)), 20).retry_after_s == 10  # nobody has ended yet


def test_at_most_three_quarters_of_a_queue_are_kept() -> None:
    promises = Promises()
    for mark in range(100):
        promises.give(mark, 0.0, 0.01)
    assert promises.kept(1.0, 20) == 15
    assert promises.kept(1.0, 1) == 0


def test_places_are_told_closer_together_when_few_come_back() -> None:
    promises = Promises()
    first = promises.give(0, 0.0, 10.0)
    for mark in range(1, 200):
        promises.give(mark, 0.0, 0.001)
    promises.kept(1000.0, 10)  # all are forgotten
    assert promises.number == promises.kept_places == 0
    assert promises.give(1, 1000.0, 10.0) < first


def test_promises_are_bounded_and_all_is_forgotten() -> None:
    promises = Promises()
    for mark in range(MOST_PROMISES + 10):
        promises.give(mark, 0.0, 0.01)
    assert promises.number == MOST_PROMISES
    assert promises.kept(10_000.0, 10) == 0
    assert (promises.by_mark, len(promises.due), len(promises.ahead)) == ({}, 0, 0)


def test_twins_have_a_place_each() -> None:
    promises = Promises()
    told = [promises.give(mark, 0.0, 5.0) for mark in (1, 2)]
    assert told[0] < told[1]
    assert promises.fetch(1, told[0])
    assert not promises.fetch(1, told[0])
    assert promises.fetch(2, told[1] - LEAD_S)


def test_without_a_mark_nothing_is_kept() -> None:
    promises = Promises()
    assert promises.give(None, 0.0, 5.0) == 6
    assert promises.number == 0
    assert promises.kept(6.0, 10) == 0


# Twice the load, on a virtual clock


@dataclass
class Crowd:
    """Clients that come at random, and come back once, when told. Requests take very different times."""

    rate: float  # of capacity
    slots: int = 16
    max_queue: int = 32
    mean_s: float = 3.0
    come_back: float = 1.0  # this share of them
    seconds: float = 600.0
    served_s: float = 0.0  # by requests that were let in after the first third
    refused: int = 0
    returned: int = 0
    let_in: int = 0
    told: list[float] = field(default_factory=list)

    def run(self, seed: int = 1) -> Crowd:
        rng = random.Random(seed)
        desk = Desk([model("a", max_concurrent=self.slots, max_queue=self.max_queue)]).resident("a")
        for at, request_id, mark, back in self._events(rng):
            for action in desk.say(at, self._event(at, request_id, mark, back)):
                self._obey(action, at, mark, back, rng)
        return self

    def _events(self, rng: random.Random) -> Iterator[tuple[float, int, int | None, bool]]:
        """(time, request, mark or None when it ends, whether it comes again)."""
        self._heap: list[tuple[float, int, int | None, bool]] = []
        self._ids = itertools.count(1)
        at = 0.0
        while at < self.seconds:
            at += rng.expovariate(self.rate * self.slots / self.mean_s)
            number = next(self._ids)
            heapq.heappush(self._heap, (at, number, number, False))
        while self._heap and self._heap[0][0] < self.seconds:
            yield heapq.heappop(self._heap)

    def _event(self, at: float, request_id: int, mark: int | None, back: bool) -> Arrived | Finished:
        if mark is None:
            return Finished(request_id)
        self.returned += back
        self.let_in += back
        return Arrived(request_id, "a", mark=mark)

    def _obey(self, action: object, at: float, mark: int | None, back: bool, rng: random.Random) -> None:
        if isinstance(action, Grant):
            service_s = self.mean_s * rng.lognormvariate(-0.32, 0.8)  # of mean 1
            heapq.heappush(self._heap, (at + service_s, action.request_id, None, False))
            if at > self.seconds / 3:
                self.served_s += min(service_s, self.seconds - at)
        elif isinstance(action, Refuse):
            assert action.retry_after_s is not None
            self.let_in -= back
            self.refused += 1
            self.told.append(action.retry_after_s)
            if not back and rng.random() < self.come_back:
                heapq.heappush(self._heap, (at + action.retry_after_s, next(self._ids), mark, True))

    @property
    def throughput(self) -> float:
        """How much of their time the slots worked. (Those who began in the first third are left out.)"""
        return self.served_s / (self.seconds * 2 / 3) / self.slots


def test_at_twice_the_load_who_comes_back_as_told_is_let_in() -> None:
    crowd = Crowd(rate=2.0).run()
    assert crowd.returned > 500
    assert crowd.let_in / crowd.returned > 0.95
    assert max(crowd.told) > 60  # a backlog of a minute is said to be one


@pytest.mark.parametrize("come_back", [0.0, 0.3, 1.0])
def test_at_twice_the_load_as_much_is_done_as_at_the_peak(come_back: float) -> None:
    peak = Crowd(rate=1.2, come_back=0.0).run().throughput
    assert Crowd(rate=2.0, come_back=come_back).run().throughput > 0.95 * peak


def test_when_nobody_comes_back_newcomers_are_not_sent_far_away() -> None:
    crowd = Crowd(rate=2.0, come_back=0.0).run()
    last = sorted(crowd.told[-200:])
    assert last[100] < 10
