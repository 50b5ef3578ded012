"""Which replica gets a request, when one is set aside, and when there is a second try."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from gateway.replicas import (
    FULL_S,
    Outcome,
    Replica,
    ReplicaSet,
    ReplicaState,
    RetryBudget,
    Rules,
    Seen,
    Visit,
)

A, B, C = "http://a", "http://b", "http://c"


def ready(*urls: str, **rules: Any) -> ReplicaSet:
    return ReplicaSet(urls, Rules(**rules), trusted=True)


def at(replicas: ReplicaSet, url: str) -> Replica:
    return next(replica for replica in replicas.all if replica.url == url)


def fail(replicas: ReplicaSet, url: str, now: float, times: int = 1) -> None:
    """Requests at ``url`` fail, one after another."""
    for _ in range(times):
        replica = at(replicas, url)
        replica.outstanding += 1
        replicas.leave(Visit(replica, now, is_trial=False), "failed", now, "it broke off")


def sent(replicas: ReplicaSet, now: float, count: int) -> Counter[str]:
    """Where so many requests go that all stay open."""
    return Counter(replicas.enter(now).replica.url for _ in range(count))


# ---------------------------------------------------------------- choice


def test_requests_that_stay_open_are_spread_evenly() -> None:
    assert sent(ready(A, B, C), 0.0, 30) == {A: 10, B: 10, C: 10}


def test_requests_one_at_a_time_go_round() -> None:
    replicas = ready(A, B, C)
    went = []
    for _ in range(6):
        visit = replicas.enter(0.0)
        went.append(visit.replica.url)
        replicas.leave(visit, "answered", 0.0)

    assert went == [A, B, C, A, B, C]


def test_the_one_with_the_fewest_requests_gets_the_next() -> None:
    replicas = ready(A, B)
    at(replicas, A).outstanding = 3

    assert sent(replicas, 0.0, 3) == {B: 3}


def test_one_that_is_full_is_asked_after_the_others_for_a_moment() -> None:
    replicas = ready(A, B)
    replicas.leave(replicas.enter(0.0), "full", 0.0)

    assert sent(replicas, FULL_S / 2, 5) == {B: 5}
    assert sent(replicas, FULL_S * 2, 5) == {A: 5}


def test_a_second_try_goes_where_the_request_has_not_been() -> None:
    replicas = ready(A, B, C)
    at(replicas, B).outstanding = 5

    visit = replicas.enter_another(0.0, [A, C])

    assert visit
    assert visit.replica.url == B
    assert replicas.enter_another(0.0, [A, B, C]) is None


def test_a_second_try_does_not_go_to_a_bad_one() -> None:
    replicas = ready(A, B)
    at(replicas, B).up = False

    assert replicas.enter_another(0.0, [A]) is None


# ---------------------------------------------------------------- ejection


def test_one_that_fails_several_in_a_row_gets_no_requests() -> None:
    replicas = ready(A, B, eject_after=3)
    fail(replicas, A, 0.0, times=2)
    assert at(replicas, A).state is ReplicaState.READY

    fail(replicas, A, 0.0)

    assert at(replicas, A).state is ReplicaState.EJECTED
    assert at(replicas, A).reason == "3 requests in a row failed: it broke off"
    assert sent(replicas, 1.0, 10) == {B: 10}


def test_an_answer_in_between_begins_the_row_anew() -> None:
    replicas = ready(A, B, eject_after=2)
    fail(replicas, A, 0.0)
    at(replicas, A).outstanding += 1
    replicas.leave(Visit(at(replicas, A), 0.0, is_trial=False), "answered", 0.0)
    fail(replicas, A, 0.0)

    assert at(replicas, A).state is ReplicaState.READY


def test_the_last_one_is_never_ejected() -> None:
    replicas = ready(A, B, eject_after=1)
    fail(replicas, A, 0.0)
    fail(replicas, B, 0.0, times=20)

    assert at(replicas, B).state is ReplicaState.READY


def test_after_its_pause_and_a_probe_it_gets_one_request_and_that_one_decides() -> None:
    replicas = ready(A, B, eject_after=1, eject_s=5)
    fail(replicas, A, 0.0)
    replicas.probed(at(replicas, A), "answers", 4.0)
    assert sent(replicas, 4.0, 2) == {B: 2}

    replicas.probed(at(replicas, A), "answers", 5.0)
    trial = replicas.enter(5.0)
    assert trial.replica.url == A
    assert sent(replicas, 5.0, 3) == {B: 3}

    replicas.leave(trial, "answered", 6.0)
    assert at(replicas, A).state is ReplicaState.READY
    assert sent(replicas, 6.0, 5) == {A: 5}


def test_the_pause_doubles_with_each_failed_trial_up_to_its_longest() -> None:
    replicas = ready(A, B, eject_after=1, eject_s=5, eject_max_s=15)
    now, pauses = 0.0, []
    at(replicas, B).outstanding = 1
    fail(replicas, A, now)
    for _ in range(4):
        retry_at = at(replicas, A).retry_at
        assert retry_at is not None
        pauses.append(retry_at - now)
        now = retry_at
        replicas.probed(at(replicas, A), "answers", now)
        trial = replicas.enter(now)
        assert trial.is_trial
        replicas.leave(trial, "failed", now, "again")

    assert pauses == [5, 10, 15, 15]


def test_what_began_before_the_ejection_does_not_make_it_longer() -> None:
    replicas = ready(A, B, eject_after=1, eject_s=5)
    visits = [replicas.enter(0.0) for _ in range(10)]
    old = [visit for visit in visits if visit.replica.url == A]
    for visit in old:
        replicas.leave(visit, "failed", 1.0, "it broke off")

    assert at(replicas, A).retry_at == 6.0


def test_a_request_that_says_nothing_leaves_the_trial_open_for_the_next() -> None:
    replicas = ready(A, B, eject_after=1, eject_s=5)
    at(replicas, B).outstanding = 1
    fail(replicas, A, 0.0)
    replicas.probed(at(replicas, A), "answers", 5.0)
    replicas.leave(replicas.enter(5.0), "unknown", 5.0)

    assert replicas.enter(5.0).replica.url == A


def test_when_all_are_bad_the_least_bad_is_tried() -> None:
    replicas = ready(A, B, C, eject_after=1)
    for replica in replicas.all:
        replica.up = replica.url == B
    at(replicas, B).retry_at = 100.0

    assert replicas.enter(0.0).replica.url == B


# ---------------------------------------------------------------- probes and names


def test_one_that_was_never_probed_gets_requests_only_when_there_is_no_other() -> None:
    replicas = ReplicaSet([A, B])
    assert not replicas.all_down

    replicas.probed(at(replicas, B), "answers", 0.0)

    assert sent(replicas, 0.0, 4) == {B: 4}


@pytest.mark.parametrize(("seen", "state"), [("ended", ReplicaState.DOWN), ("busy", ReplicaState.READY)])
def test_a_probe_for_a_reason_decides_when_nobody_is_there(seen: Seen, state: ReplicaState) -> None:
    replicas = ready(A, fails=1)
    replicas.probed(at(replicas, A), seen, 0.0, "nobody there", decisive=True)

    assert at(replicas, A).state is state


def test_one_that_comes_back_has_no_past() -> None:
    replicas = ready(A, B, eject_after=1, fails=1)
    fail(replicas, A, 0.0)
    replicas.probed(at(replicas, A), "ended", 1.0, "nobody there")
    assert at(replicas, A).state is ReplicaState.DOWN

    replicas.probed(at(replicas, A), "answers", 2.0)

    assert at(replicas, A).state is ReplicaState.READY


def test_an_address_that_vanished_finishes_what_it_has_and_gets_nothing_new() -> None:
    replicas = ready(A, B)
    visits = [replicas.enter(0.0) for _ in range(4)]
    replicas.update([B, C])
    assert [(r.url, r.state) for r in replicas.all] == [
        (B, ReplicaState.READY),
        (C, ReplicaState.DOWN),
        (A, ReplicaState.DRAINING),
    ]

    assert sent(replicas, 0.0, 4) == {B: 4}
    for visit in visits:
        replicas.leave(visit, "answered", 1.0)

    assert [replica.url for replica in replicas.all] == [B, C]


def test_an_address_that_returns_while_it_drains_goes_on_where_it_was() -> None:
    replicas = ready(A, B)
    before = at(replicas, A)
    before.outstanding = 1
    replicas.update([B])
    replicas.update([A, B])

    assert at(replicas, A) is before
    assert before.state is ReplicaState.READY


def test_who_listens_hears_of_every_change_and_of_nothing_else() -> None:
    replicas = ready(A, B, eject_after=2)
    heard: list[int] = []
    replicas.listen(lambda: heard.append(replicas.ready))

    replicas.update([B, A])
    fail(replicas, A, 0.0)
    assert heard == []
    fail(replicas, A, 0.0)
    replicas.update([B, C])

    assert heard == [1, 1]


# ---------------------------------------------------------------- budget


def test_second_tries_stop_when_what_was_saved_is_used_up() -> None:
    replicas = ready(A, B, retry_share=0.5, retry_floor_per_s=0.0)
    tries = [replicas.enter_another(0.0, [A]) for _ in range(100)]

    assert sum(one is not None for one in tries) == 25  # what fifty requests bring
    replicas.enter(0.0)
    replicas.enter(0.0)
    assert replicas.enter_another(0.0, [A])
    assert replicas.enter_another(0.0, [A]) is None


def test_no_second_try_is_paid_for_when_there_is_nowhere_to_go() -> None:
    replicas = ready(A, B, retry_share=0.0, retry_floor_per_s=0.04)
    for _ in range(10):
        assert replicas.enter_another(0.0, [A, B]) is None

    assert replicas.enter_another(0.0, [A])


@settings(max_examples=200)
@given(
    share=st.floats(0, 1),
    floor=st.floats(0, 5),
    steps=st.lists(st.tuples(st.sampled_from(["ask", "try"]), st.floats(0, 2)), max_size=200),
)
def test_second_tries_never_exceed_what_was_paid_in(
    share: float, floor: float, steps: list[tuple[str, float]]
) -> None:
    budget = RetryBudget(share, floor, 0.0)
    now, asked, taken = 0.0, 0, 0
    for what, pause_s in steps:
        now += pause_s
        if what == "ask":
            budget.asked()
            asked += 1
        else:
            taken += budget.take(now)

        assert taken <= max(30 * floor, 50 * share) + share * asked + floor * now + 1e-6


# ---------------------------------------------------------------- whatever happens


class Anything(RuleBasedStateMachine):
    """Requests, failures, probes, names and time in any order."""

    visits = Bundle("visits")

    @initialize(
        urls=st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True), trusted=st.booleans()
    )
    def begin(self, urls: list[str], trusted: bool) -> None:
        self.now = 0.0
        self.open: list[Visit] = []
        self.replicas = ReplicaSet(urls, Rules(eject_after=2, fails=2), trusted=trusted)

    def pick(self, number: int) -> Replica:
        return self.replicas.all[number % len(self.replicas.all)]

    @rule(target=visits)
    def request(self) -> Visit:
        good = [r for r in self.replicas.current if r.takes_requests]
        most = min((r.outstanding for r in good if r.full_until <= self.now), default=None)
        visit = self.replicas.enter(self.now)
        assert not visit.replica.draining
        assert not good or visit.replica in good
        if most is not None:
            assert visit.replica.outstanding == most + 1
        self.open.append(visit)
        return visit

    @rule(target=visits, been=st.sets(st.sampled_from("abcd")))
    def second_try(self, been: set[str]) -> Visit | None:
        good = {r.url for r in self.replicas.current if r.takes_requests}
        visit = self.replicas.enter_another(self.now, been)
        if visit is not None:
            assert visit.replica.url in good - been
            self.open.append(visit)
        return visit

    @rule(visit=consumes(visits), outcome=st.sampled_from(["answered", "failed", "full", "unknown"]))
    def end(self, visit: Visit | None, outcome: Outcome) -> None:
        if visit is None:
            return
        before = self.replicas.ready
        self.open.remove(visit)
        self.replicas.leave(visit, outcome, self.now, "because")
        assert self.replicas.ready or not before

    @rule(
        number=st.integers(0, 9), seen=st.sampled_from(["answers", "busy", "ended"]), decisive=st.booleans()
    )
    def probe(self, number: int, seen: Seen, decisive: bool) -> None:
        self.replicas.probed(self.pick(number), seen, self.now, "because", decisive=decisive)

    @rule(urls=st.lists(st.sampled_from("abcd"), min_size=1, max_size=4))
    def resolve(self, urls: list[str]) -> None:
        self.replicas.update(urls)
        assert {r.url for r in self.replicas.current} == set(urls)

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def books_are_true(self) -> None:
        counted = Counter(id(visit.replica) for visit in self.open)
        trials = Counter(id(v.replica) for v in self.open if v.is_trial and v.replica.may_be_tried)
        assert len({replica.url for replica in self.replicas.all}) == len(self.replicas.all)
        for replica in self.replicas.all:
            assert replica.outstanding == counted.pop(id(replica), 0)
            assert not replica.draining or replica.outstanding
            assert trials[id(replica)] <= 1 or not replica.on_trial
        assert not counted


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
