"""The scheduler in simulated hours on a 12 GB card: its bound, its room, and how it stands against rivals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.switching import figures, report, traces
from benchmarks.switching.figures import CONTENDERS, OURS, measure
from benchmarks.switching.parameters import CARD_BYTES
from benchmarks.switching.traces import Trace

SEED = (11,)


@pytest.mark.parametrize("make", traces.TRACES, ids=lambda make: make.__name__)
def test_nobody_waits_longer_than_the_bound_and_nobody_gives_up(make: Callable[[int], Trace]) -> None:
    measured = measure(make, CONTENDERS[OURS], SEED)
    assert measured.keeps_bound
    assert measured.answered > 50


@pytest.mark.parametrize(
    "make", [traces.alternating, traces.bursty, traces.impatient], ids=lambda m: m.__name__
)
def test_two_models_of_which_one_fits_are_never_resident_together(make: Callable[[int], Trace]) -> None:
    measured = measure(make, CONTENDERS[OURS], SEED)
    assert measured.most_resident == 1
    assert measured.switches > 10


def test_small_models_share_the_card_and_never_hold_more_than_it_has() -> None:
    result = figures.run(traces.many(11), CONTENDERS[OURS], 11)
    assert result.most_resident > 1
    assert result.most_resident_bytes <= CARD_BYTES


def test_every_request_of_a_trace_is_answered_or_refused() -> None:
    result = figures.run(traces.bursty(11), CONTENDERS[OURS], 11)
    assert all(ask.ended_at is not None for ask in result.asks)


def test_serving_the_resident_first_starves_a_patient_client_where_ours_does_not() -> None:
    assert measure(traces.impatient, CONTENDERS["resident first"], SEED).refused > 0
    assert measure(traces.impatient, CONTENDERS[OURS], SEED).refused == 0


def test_ours_loses_no_more_to_switching_than_a_rival_that_keeps_the_bound() -> None:
    for make in (traces.alternating, traces.bursty, traces.impatient):
        by_policy = {name: measure(make, contender, (1, 2)) for name, contender in CONTENDERS.items()}
        assert not report.verdict(by_policy).startswith(("over", "behind")), make.__name__


def test_the_same_seed_gives_the_same_figures() -> None:
    assert measure(traces.alternating, CONTENDERS[OURS], SEED) == measure(
        traces.alternating, CONTENDERS[OURS], SEED
    )


def test_only_what_is_between_the_markers_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
    report.write(page, "new")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "new" in text
    assert "old" not in text
    page.write_text("no markers", encoding="utf-8")
    with pytest.raises(ValueError, match="figures: begin"):
        report.write(page, "new")
