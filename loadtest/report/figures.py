"""Numbers out of records and samples. Pure; everything that pages and plots say comes from here."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.records import Record
from loadtest.results import PartData
from loadtest.stats import Spread, quantile, spread

SETTLE_S = 5.0
"""Users come within five seconds; rates are counted after that."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of request of one model. Times in ms. ``own`` is the time without waiting for a turn or a
    load: what the same request would have taken had its model been there."""

    kind: str
    model: str
    requests: int
    outcomes: Counter[str]
    total: Spread
    own: Spread
    first_token: Spread
    gaps: Spread
    tokens_per_s: Spread


def row_of(kind: str, model: str, records: Sequence[Record]) -> Row:
    done = [record for record in records if record.outcome == "ok"]
    return Row(
        kind,
        model,
        len(records),
        Counter(record.outcome for record in records),
        spread(record.total_ms for record in done),
        spread(own_ms(record) for record in done),
        spread(record.first_token_ms for record in done if record.first_token_ms is not None),
        spread(gap for record in done for gap in record.gaps_ms),
        spread(rate for record in done if (rate := record.tokens_per_s) is not None),
    )


def rows(records: Sequence[Record]) -> list[Row]:
    """Every kind and model, in order."""
    keys = sorted({(record.kind, record.model) for record in records})
    return [
        row_of(kind, model, [record for record in records if (record.kind, record.model) == (kind, model)])
        for kind, model in keys
    ]


def models(records: Iterable[Record]) -> list[str]:
    return sorted({record.model for record in records})


def own_ms(record: Record) -> float:
    return record.total_ms - waited_ms(record)


def waited_ms(record: Record) -> float:
    """For a turn, and for the model to come in."""
    return record.receipt.get("queue_ms", 0.0) + record.receipt.get("load_ms", 0.0)


def waited_for_load(record: Record) -> bool:
    return record.receipt.get("load_ms", 0.0) > 0


def receipt_part(records: Iterable[Record], part: str) -> Spread:
    return spread(record.receipt[part] for record in records if part in record.receipt)


def outside(records: Iterable[Record]) -> Spread:
    """Between the client and the gateway's account: connection, sockets, and the client itself."""
    return spread(record.total_ms - record.receipt["total_ms"] for record in records if record.receipt)


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second, after users have come and before they stop."""

    answers: float
    tokens: float


def rates(part: PartData) -> Rates:
    start, end = part.began + min(SETTLE_S, part.seconds / 4), part.ended
    done = [one for one in part.records if one.outcome == "ok" and start <= one.ended_at < end]
    seconds = max(end - start, 0.001)
    return Rates(len(done) / seconds, sum(one.tokens for one in done) / seconds)


@dataclass(frozen=True, slots=True)
class Usage:
    """What one program took. Cores in processor seconds per second."""

    cores: float
    cpu_s: float
    rss_first: float
    rss_last: float
    rss_most: float
    fds_most: float
    sockets_most: float


def usage(samples: Sequence[dict[str, Any]], program: str) -> Usage | None:
    """``gateway``, ``engines`` or ``locust``; None where it was not ours to look at."""
    found = [(row["t"], row[program]) for row in samples if row.get(program)]
    if len(found) < 2:
        return None
    both = [(t, together(one)) for t, one in found]
    used = sum(max(0.0, b["cpu_s"] - a["cpu_s"]) for (_, a), (_, b) in itertools.pairwise(both))
    lasted = both[-1][0] - both[0][0]
    memory = [one["rss"] for _, one in both]
    return Usage(
        used / lasted,
        used,
        memory[0],
        memory[-1],
        max(memory),
        max(one["fds"] for _, one in both),
        max(one["sockets"] for _, one in both),
    )


def together(program: Any) -> dict[str, float]:
    """Engines are a list: one at a time on a card for one, and none while they change."""
    if isinstance(program, dict):
        return program
    return {name: sum(one[name] for one in program) for name in ("cpu_s", "rss", "fds", "sockets")}


@dataclass(frozen=True, slots=True)
class Waits:
    """Who waited for a model to come in. ``waits`` in ms: turn and load together."""

    model: str
    answered: int
    waited: int
    waits: Spread
    loads: Spread


def waits(records: Sequence[Record]) -> list[Waits]:
    found = []
    for model in models(records):
        done = [record for record in records if record.model == model and record.outcome == "ok"]
        cold = [record for record in done if waited_for_load(record)]
        found.append(
            Waits(
                model,
                len(done),
                len(cold),
                spread(waited_ms(record) for record in cold),
                spread(record.receipt["load_ms"] for record in cold),
            )
        )
    return found


def binned(
    records: Iterable[Record], began: float, width_s: float, ended: float
) -> list[tuple[float, list[Record]]]:
    """Answers by when they ended: middle of each bin in seconds from the beginning, and its records."""
    count = max(1, int((ended - began) / width_s))
    bins: list[list[Record]] = [[] for _ in range(count)]
    for record in records:
        index = int((record.ended_at - began) / width_s)
        if 0 <= index < count:
            bins[index].append(record)
    return [((index + 0.5) * width_s, found) for index, found in enumerate(bins)]


def quantile_of(values: Iterable[float], q: float) -> float | None:
    ordered = sorted(values)
    return quantile(ordered, q) if ordered else None


def errors(records: Iterable[Record]) -> list[tuple[str, int]]:
    """What went wrong, most often first."""
    seen = Counter(record.error for record in records if record.outcome == "failed")
    return seen.most_common(5)
