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
    assert told == [12, 23, 35]  # one place every 10 s, and a margin


def test_a_place_is_kept_for_who_was_told_to_come_back() -> None:
    desk = full()
    refusal(desk.say(10, Arrived(10, "a", mark=7)), 10)
    assert desk.say(20, Finished(0)) == [Grant(1)]  # a place is free, and it is not for newcomers
    assert refusal(desk.say(20.6, Arrived(11, "a", mark=8)), 11).code == "queue_full"
    assert desk.say(22, Arrived(12, "a", mark=7)) == []
    assert desk.scheduler.outlook(12, 22).position == 4


def test_who_comes_too_early_is_told_the_same_time_and_loses_nothing() -> None:
    desk = full()
    refusal(desk.say(10, Arrived(10, "a", mark=7)), 10)
    assert refusal(desk.say(14, Arrived(11, "a", mark=7)), 11).retry_after_s == 8
    desk.say(20, Finished(0))
    assert desk.say(22, Arrived(12, "a", mark=7)) == []


def test_a_place_that_nobody_fetches_goes_to_whoever_comes() -> None:
    desk = full()
    refusal(desk.say(10, Arrived(10, "a", mark=7)), 10)
    desk.say(20, Finished(0))
    late = 22 + GRACE_S
    assert refusal(desk.say(late - 0.1, Arrived(11, "a")), 11).code == "queue_full"
    assert desk.say(late + 0.1, Arrived(12, "a")) == []


def test_who_came_as_told_and_found_no_place_is_told_the_very_next_one() -> None:
    desk = full()
    for number in range(5):
        refusal(desk.say(10, Arrived(10 + number, "a", mark=number)), 10 + number)
    assert refusal(desk.say(22, Arrived(20, "a", mark=0)), 20).retry_after_s == 10  # nobody has ended yet


def test_at_most_three_quarters_of_a_queue_are_kept() -> None:
    promises = Promises()
    for mark in range(100):
        promises.give(mark, 0.0, 0.01)
    assert promises.kept(1.0, 20) == 15
    assert promises.kept(1.0, 1) == 0


def test_a_crowd_that_never_comes_back_is_soon_left_out_of_account() -> None:
    promises = Promises()
    for mark in range(2000):
        promises.give(mark, 0.0, 0.05)
    assert promises.give(5000, 1.0, 0.05) > 100
    promises.kept(10.0, 64)  # the first hundred and more were not fetched
    assert promises.give(5001, 10.0, 0.05) < 15
    assert promises.kept(10.0, 64) < 16


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
    """Clients that come at random, and come back when told, up to three times. Requests differ much."""

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
        for at, request_id, mark, tries in self._events(rng):
            for action in desk.say(at, self._event(request_id, mark, tries)):
                self._obey(action, at, mark, tries, rng)
        return self

    def _events(self, rng: random.Random) -> Iterator[tuple[float, int, int | None, int]]:
        """(time, request, mark or None when it ends, how often it was refused)."""
        self._heap: list[tuple[float, int, int | None, int]] = []
        self._ids = itertools.count(1)
        at = 0.0
        while at < self.seconds:
            at += rng.expovariate(self.rate * self.slots / self.mean_s)
            number = next(self._ids)
            heapq.heappush(self._heap, (at, number, number, 0))
        while self._heap and self._heap[0][0] < self.seconds:
            yield heapq.heappop(self._heap)

    def _event(self, request_id: int, mark: int | None, tries: int) -> Arrived | Finished:
        if mark is None:
            return Finished(request_id)
        self.returned += tries == 1
        self.let_in += tries == 1
        return Arrived(request_id, "a", mark=mark)

    def _obey(self, action: object, at: float, mark: int | None, tries: int, rng: random.Random) -> None:
        if isinstance(action, Grant):
            service_s = self.mean_s * rng.lognormvariate(-0.32, 0.8)  # of mean 1
            heapq.heappush(self._heap, (at + service_s, action.request_id, None, 0))
            if at > self.seconds / 3:
                self.served_s += min(service_s, self.seconds - at)
        elif isinstance(action, Refuse):
            assert action.retry_after_s is not None
            self.let_in -= tries == 1
            self.refused += 1
            self.told.append(action.retry_after_s)
            if tries < 3 and (tries or rng.random() < self.come_back):
                back_at = at + action.retry_after_s
                heapq.heappush(self._heap, (back_at, next(self._ids), mark, tries + 1))

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
