"""Where more load brings no more answers: found in a ramp, and what twice of it does."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.records import Record
from loadtest.stats import Spread, spread

IN_A_ROW, MORE = 3, 1.03
AT_THE_KNEE = 0.97
"""The knee is the least load that brings this share of the most answers per second."""
PACE_S = 10.0
"""From one new request of a source to its next."""
SETTLES = 1 / 3
"""Of a step, until users are there and their first answers are in."""


def saturated(answers: Sequence[int]) -> bool:
    """Whether the last steps brought nothing. ``answers`` has the sum at the end of each, from 0."""
    gains = [after - before for before, after in itertools.pairwise(answers)]
    if len(gains) <= IN_A_ROW:
        return False
    return max(gains[-IN_A_ROW:]) <= MORE * max(gains[:-IN_A_ROW])


@dataclass(frozen=True, slots=True)
class Step:
    """One number of users. Rates per second; ``latency`` of whole answers in ms, without the refused."""

    users: int
    offered: float
    answered: float
    refused: float
    latency: Spread
    first_token: Spread


def steps(records: Sequence[Record], began: float, step_s: float, step_users: int) -> list[Step]:
    """What each step of a ramp brought, after it has settled."""
    found: list[Step] = []
    # Who comes back after a refusal does so when the ramp is over, too.
    last = max((record.at for record in records if record.attempt == 1), default=began)
    while (start := began + len(found) * step_s) + step_s <= last + step_s / 2:
        users = (len(found) + 1) * step_users
        found.append(window(records, start + SETTLES * step_s, start + step_s, users))
    return found


def window(records: Sequence[Record], start: float, end: float, users: int) -> Step:
    """Offered and refused are counted where they begin, answers where they end."""
    seconds = end - start
    begun = [record for record in records if start <= record.at < end]
    done = [record for record in records if record.outcome == "ok" and start <= record.ended_at < end]
    return Step(
        users,
        sum(record.attempt == 1 for record in begun) / seconds,
        len(done) / seconds,
        sum(record.outcome == "refused" for record in begun) / seconds,
        spread(record.total_ms for record in done),
        spread(record.receipt["prefill_ms"] for record in done if "prefill_ms" in record.receipt),
    )


def held(records: Sequence[Record], began: float, ended: float, users: int) -> Step:
    """A part with one load all along, after it has settled."""
    return window(records, began + SETTLES * (ended - began), ended, users)


def peak(ramp: Sequence[Step]) -> Step:
    """The step with the most answers per second."""
    return max(ramp, key=lambda step: step.answered)


def knee(ramp: Sequence[Step]) -> Step:
    """The least load that brings nearly as much."""
    most = peak(ramp).answered
    return next(step for step in ramp if step.answered >= AT_THE_KNEE * most)


@dataclass(frozen=True, slots=True)
class Refusals:
    """What became of those who were told to come back. Of all ``told`` (429 or 503), ``with_retry_after``
    were told when. ``kept`` of ``first`` did so within the run; ``second`` got in at their second try,
    ``third`` at their third, ``never`` were refused three times.
    """

    first: int
    told: int
    with_retry_after: int
    kept: int
    second: int
    third: int
    never: int
    retry_after: Spread


def refusals(records: Sequence[Record]) -> Refusals:
    refused = [record for record in records if record.outcome == "refused"]
    by_attempt = {
        attempt: [record for record in records if record.attempt == attempt] for attempt in (1, 2, 3)
    }
    told = [record for record in records if record.status in (429, 503)]
    return Refusals(
        first=sum(record.outcome == "refused" for record in by_attempt[1]),
        told=len(told),
        with_retry_after=sum(record.retry_after_s is not None for record in told),
        kept=len(by_attempt[2]),
        second=sum(record.outcome == "ok" for record in by_attempt[2]),
        third=sum(record.outcome == "ok" for record in by_attempt[3]),
        never=sum(record.outcome == "refused" for record in by_attempt[3]),
        retry_after=spread(record.retry_after_s for record in refused if record.retry_after_s is not None),
    )
