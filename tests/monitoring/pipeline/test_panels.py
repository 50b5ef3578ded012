"""Every query of every panel of every dashboard returns data from a gateway that really ran."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import REPOSITORY
from panels import PanelTarget, Window, answer, dashboards, named, points, targets
from processes import INIT, Influx
from stage import Stage

from monitoring.grafana import alerts
from monitoring.grafana.board import LANGUAGES

pytestmark = pytest.mark.pipeline
# Nothing was lost, which test_true_figures.py says too.
EXPECTED_EMPTY = {"overview: Figures lost A"}
LONG_STEP_MS = 300_000


def downsampling(window: Window) -> list[str]:
    """The statements inside the continuous queries of init.iql, over the window's time."""
    text = "\n".join(
        line for line in INIT.read_text(encoding="utf-8").splitlines() if not line.startswith("--")
    )
    bodies = [part.partition(" BEGIN")[2].partition("END")[0] for part in text.split(";") if " BEGIN" in part]
    start_ms = window.start_ms // LONG_STEP_MS * LONG_STEP_MS
    since = f"time >= {start_ms}ms AND time <= {window.end_ms}ms"
    return [
        body.replace("GROUP BY", f"{'AND' if 'WHERE' in body else 'WHERE'} {since} GROUP BY")
        for body in bodies
    ]


@pytest.fixture(scope="session")
def long_run(stage: Stage) -> Window:
    """What the continuous queries do every five minutes has been done."""
    statements = downsampling(stage.window)
    assert len(statements) == 5
    for statement in statements:
        (result,) = stage.influx.ask(statement)
        assert result.rows[0]["written"] > 0, statement
    start_ms = stage.window.start_ms // LONG_STEP_MS * LONG_STEP_MS
    return Window(start_ms, stage.window.end_ms, LONG_STEP_MS)


def asked(stage: Stage, found: PanelTarget, long_run: Window) -> list[Any]:
    window = long_run if found.board == "history" else stage.window
    return answer(stage.influx, found, window)


@pytest.mark.parametrize(
    "found", [one for one in targets() if one.id not in EXPECTED_EMPTY], ids=lambda found: found.id
)
def test_every_target_of_every_panel_returns_data(stage: Stage, long_run: Window, found: PanelTarget) -> None:
    with_values = [
        series
        for series in asked(stage, found, long_run)
        if any(value is not None for _, value in points(series))
    ]
    assert with_values, found.target["query"]
    for series in with_values:
        assert "$" not in named(found.target["alias"], series)


def test_a_chosen_model_is_the_only_one_shown(stage: Stage) -> None:
    for found in targets():
        if found.board == "engines" and "tag_model" in found.target["alias"]:
            shown = answer(stage.influx, found, stage.window, model="(narrow)")
            assert {series.tags["model"] for series in shown} <= {"narrow"}, found.id


def test_rates_add_up_to_what_clients_counted(stage: Stage) -> None:
    (found,) = (one for one in targets() if one.id == "overview: Requests by status A")
    step_s = stage.window.step_ms / 1000
    total = sum(
        (value or 0) * step_s
        for series in answer(stage.influx, found, stage.window)
        for _, value in points(series)
    )
    assert total >= sum(stage.tally.statuses.values())
    assert total == pytest.approx(stage.influx.total("gw_requests"))


def test_down_sampled_counters_add_up_to_the_raw_ones(stage: Stage, long_run: Window) -> None:
    def total(retention: str, measurement: str, field: str) -> float:
        query = f'SELECT sum("{field}") AS "it" FROM "{retention}"."{measurement}"'
        (series,) = stage.influx.ask(f"{query} WHERE time <= {stage.window.end_ms}ms")
        return float(series.rows[0]["it"])

    for measurement, field in (("gw_requests", "value"), ("gw_tokens_out", "value"), ("gw_total", "count")):
        assert total("long", measurement, field) == total("raw", measurement, field), measurement


def test_what_is_kept_how_long_is_what_the_init_file_says(stage: Stage) -> None:
    (policies,) = stage.influx.ask("SHOW RETENTION POLICIES ON gateway")
    kept = {row["name"]: (row["duration"], row["default"]) for row in policies.rows}
    assert kept == {"raw": ("168h0m0s", True), "long": ("9600h0m0s", False)}


@pytest.mark.parametrize("rule", alerts.RULES, ids=lambda rule: rule.uid)
def test_every_query_of_every_alert_returns_data(database: Influx, stage: Stage, rule: alerts.Rule) -> None:
    for query in rule.queries:
        assert any(value is not None for series in database.ask(query) for _, value in points(series)), query


@pytest.fixture(scope="session")
def answers(
    stage: Stage, long_run: Window, answers_folder: Path | None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What the database said to every query, in files, one for each dashboard."""
    kept: dict[str, dict[str, Any]] = {}
    for found in targets():
        window = long_run if found.board == "history" else stage.window
        board = kept.setdefault(found.board, {"start": window.start_ms, "end": window.end_ms, "panels": {}})
        board["panels"].setdefault(str(found.panel["id"]), {})[found.target["refId"]] = [
            {"tags": dict(series.tags), "points": points(series)} for series in asked(stage, found, long_run)
        ]
    folder = answers_folder or tmp_path_factory.mktemp("answers")
    folder.mkdir(parents=True, exist_ok=True)
    for name, board in kept.items():
        (folder / f"{name}.json").write_text(json.dumps(board), encoding="utf-8")
    return folder


@pytest.mark.parametrize("language", LANGUAGES)
def test_grafanas_own_components_draw_every_dashboard(answers: Path, tmp_path: Path, language: str) -> None:
    command = [sys.executable, "-m", "monitoring.grafana.draw", str(answers), str(tmp_path), language]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.png"))) == len(dashboards())
    for picture in tmp_path.glob("*.png"):
        assert picture.stat().st_size > 30_000, f"{picture.name} is nearly empty"
