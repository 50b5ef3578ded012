"""The dashboards that Grafana reads are the ones that the code makes, and they speak of what exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.grafana import alerts
from monitoring.grafana.__main__ import HERE, files
from monitoring.grafana.board import LANGUAGES, Board, Language
from monitoring.grafana.boards import BOARDS
from monitoring.grafana.render import build

CJK = re.compile(r"[\u4e00-\u9fff]")
BOTH = [(board, language) for board in BOARDS for language in LANGUAGES]


def panels(board: Board, language: Language) -> list[dict[str, Any]]:
    return [panel for panel in build(board, language)["panels"] if panel["type"] != "row"]


def test_the_committed_files_are_what_the_code_makes() -> None:
    stale = [
        str(path)
        for path, content in files()
        if not (HERE / path).is_file() or (HERE / path).read_text(encoding="utf-8") != content
    ]
    assert not stale, f"run `python -m monitoring.grafana`; these are not what it makes: {stale}"


def test_no_dashboard_is_left_over_from_an_older_code() -> None:
    made = {path for path, _ in files()}
    assert {path.relative_to(HERE) for path in HERE.glob("dashboards/**/*.json")} <= made


@pytest.mark.parametrize(("board", "language"), BOTH, ids=lambda value: getattr(value, "slug", value))
def test_grafanas_own_model_reads_every_dashboard_without_losing_a_key(
    board: Board, language: Language
) -> None:
    made = build(board, language)
    again = Dashboard.from_json(made)
    assert set(made) == set(again.to_json())
    assert len(again.panels or ()) == len(made["panels"])


@pytest.mark.parametrize(("board", "language"), BOTH, ids=lambda value: getattr(value, "slug", value))
def test_every_panel_has_a_unit_and_says_in_one_line_what_it_shows(board: Board, language: Language) -> None:
    for panel in panels(board, language):
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["description"], panel["title"]
        assert "\n" not in panel["description"], panel["title"]


def test_chinese_dashboards_are_in_chinese_and_english_ones_are_not() -> None:
    for board in BOARDS:
        assert all(CJK.search(panel["description"]) for panel in panels(board, "zh")), board.slug
        english = [(panel["title"], panel["description"], panel["targets"]) for panel in panels(board, "en")]
        assert not CJK.search(str(english)), board.slug


def test_both_languages_ask_the_same_questions() -> None:
    for board in BOARDS:
        asked = [
            [[target["query"] for target in panel["targets"]] for panel in panels(board, language)]
            for language in LANGUAGES
        ]
        assert asked[0] == asked[1], board.slug


def test_every_dashboard_links_to_the_others_of_its_language() -> None:
    made = [build(board, language) for board, language in BOTH]
    assert len({one["uid"] for one in made}) == len(made)
    for (_, language), one in zip(BOTH, made, strict=True):
        assert [link["tags"] for link in one["links"]] == [[f"gateway-{language}"]]
        assert f"gateway-{language}" in one["tags"]


def test_no_panel_reaches_over_the_edge_or_lies_on_another() -> None:
    for board in BOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in build(board, "en")["panels"]:
            at = panel["gridPos"]
            cells = {
                (x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
            }
            assert at["x"] + at["w"] <= 24, f"{board.slug}: {panel['title']}"
            assert not cells & taken, f"{board.slug}: {panel['title']} lies on another"
            taken |= cells


def test_every_variable_in_a_query_is_on_its_dashboard() -> None:
    for board, language in BOTH:
        used = set(re.findall(r"\$\{(\w+)", str(panels(board, language))))
        assert used <= set(board.variables), board.slug


def test_alert_rules_are_bound_to_dashboards_and_hold_nothing_that_provisioning_would_replace() -> None:
    text = Path(HERE / "provisioning" / "alerting" / "gateway.yaml").read_text(encoding="utf-8")
    rules = yaml.safe_load(text)["groups"][0]["rules"]
    assert "$" not in str([(rule["title"], rule["annotations"], rule["labels"]) for rule in rules])
    assert "$timeFilter" not in text
    assert {rule["dashboardUid"] for rule in rules} <= {board.uid("en") for board in BOARDS}
    assert len({rule["uid"] for rule in rules}) == len(alerts.RULES)
