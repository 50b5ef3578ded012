"""The published benchmark: its sums, its goals, and that its page shows what was measured."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks.overhead import report, results
from benchmarks.overhead.__main__ import DOCS
from benchmarks.overhead.contenders import CHAT, TGI, WAYS, also
from benchmarks.overhead.load import Run
from benchmarks.overhead.measure import Row, against
from benchmarks.overhead.profile import text


def row(name: str, *request_us: float, **pooled: float) -> Row:
    return Row(name, [{"cpu_us_per_request": value} for value in request_us], dict(pooled))


def test_figure_is_the_median_of_its_rounds_and_a_multiple_is_that_of_each_round() -> None:
    """What slows a whole round slows both."""
    ours, theirs = row("gateway", 100, 300, 120), row("other", 50, 150, 40)
    assert ours.value("cpu_us_per_request") == 120
    assert against(ours, theirs, "cpu_us_per_request") == (2.0, 2.0, 3.0)
    assert against(ours, row("other"), "cpu_us_per_request") is None


def test_added_latency_is_that_of_a_second_less_that_beside_it() -> None:
    """One bad second of the machine does not decide it."""
    calm, bad = [1.0] * 100, [50.0] * 100
    one = Row("gateway", latencies_ms=[*([3.0] * 100), *bad, *([4.0] * 100)], beside_ms=[*calm, *bad, *calm])
    one.pool()
    assert one.pooled["added_p99_ms"] == 2.0
    assert one.pooled["added_p50_ms"] == 2.0


def test_goals_say_what_was_reached() -> None:
    rows = [
        row(report.OURS[0], 90, 100, 110, added_p99_ms=2.0),
        row(report.ROUTER, 100, 100, 100, added_p99_ms=1.0),
        row(report.YARDSTICK, 1000, 1000, 1000),
    ]
    lines = report.goals(rows).splitlines()
    assert lines[2] == "| processor time per plain request | 1.0 × vllm-router | 1.00 (0.90–1.10) | yes |"
    assert lines[3].endswith("| 1/15 (0.067) × FastAPI + httpx | 0.10 (0.09–0.11) | no |")
    assert lines[-1] == "| added p99 at 100 requests/s | 1.5 × vllm-router | 2.00 | no |"


def test_page_is_what_was_kept() -> None:
    """Whoever measures anew writes both; whoever changes the page's words runs it with --page."""
    assert (DOCS / "BENCHMARKS.md").read_text(encoding="utf-8") == report.page()


def test_rows_are_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    rows = [row("gateway", 1.5, 2.5, added_p99_ms=3.0)]
    assert results.kept("overhead") is None
    results.keep("overhead", {"rows": results.of_rows(rows)})
    found = results.kept("overhead")
    assert found is not None
    assert results.rows_of(found["rows"]) == rows
    assert found["measured_on"]["cores"]


def test_program_of_ones_own_is_asked_on_a_route_that_it_knows() -> None:
    one = also("mine=chat+http://127.0.0.1:9901")
    assert (one.name, one.address, one.way, one.command) == ("mine", "127.0.0.1:9901", CHAT, [])
    assert also("mine=http://localhost:9901").way is TGI


@pytest.mark.parametrize(
    "wrong", ["", "mine", "mine=9901", "mine=smoke+http://127.0.0.1:1", "=http://h:1", "a=http://h"]
)
def test_program_that_cannot_be_asked_is_refused_with_the_routes(wrong: str) -> None:
    with pytest.raises(ValueError, match=", ".join(WAYS)):
        also(wrong)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_route_asks_for_the_same(way: object) -> None:
    """The source looks for its orders in the text; all of them carry it."""
    for asked in (way.plain(20), way.stream(20, 50)):  # type: ignore[attr-defined]
        json.loads(asked.body)
        assert "tokens=20 rate=" in asked.body


def test_failed_request_fails_the_run() -> None:
    said = '{"mark": "begun", "tokens": 0}\n{"failed": 2, "why": "503"}'
    with (
        subprocess.Popen(["printf", "%s", said], stdout=subprocess.PIPE, text=True) as process,
        pytest.raises(RuntimeError, match="2 requests to /generate failed: 503"),
    ):
        Run(process, TGI.plain(1)).result()


def test_profile_adds_up_lines_and_leaves_out_where_things_are_installed() -> None:
    stacks = {
        ("main (gateway/cli.py:1)", "f (/usr/lib/python3.11/json/encoder.py:5)"): 1,
        ("main (gateway/cli.py:1)", "f (/usr/lib/python3.11/json/encoder.py:9)"): 2,
        ("main (gateway/cli.py:1)", "g (/x/site-packages/uvloop/loop.py:9)", "h (gateway/api/tgi.py:3)"): 1,
    }
    said = text("Plain", stacks)
    assert "  75.0 %  f (json/encoder.py)\n  25.0 %  h (gateway/api/tgi.py)" in said
    assert "100.0 %" not in said
