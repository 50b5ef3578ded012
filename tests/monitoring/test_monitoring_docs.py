"""docs/MONITORING.md, the dashboards and the tables of metrics say the same."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from documents import REPOSITORY, text_of

from gateway.metrics import TABLE
from gpu_sidecar.series import TABLE as CARDS
from monitoring.grafana import alerts
from monitoring.grafana.board import LANGUAGES, Board, Language
from monitoring.grafana.boards import BOARDS
from monitoring.grafana.names import LOAD_TEST

PAGES: dict[Language, str] = {"en": "MONITORING.md", "zh": "MONITORING.zh-CN.md"}
ALWAYS = {"host", "metric_type"}
Row = tuple[str, ...]


def under(title: str, language: Language = "en") -> str:
    """What stands under a heading, down to the next one."""
    text = text_of(REPOSITORY / "docs" / PAGES[language])
    _, found, rest = text.partition(f"# {title}\n")
    assert found, f"docs/{PAGES[language]} has no heading {title!r}"
    return re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(title: str, language: Language = "en") -> list[Row]:
    lines = [line for line in under(title, language).splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines[2:]]


def labels(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def known() -> dict[str, set[str]]:
    """Every measurement that somebody sends, and its tags."""
    sent = {f"gw_{metric.short}": set(metric.labels) for metric in TABLE}
    sent |= {f"gw_{metric.name}": set(metric.tags) for metric in CARDS}
    return sent | {f"gw_{metric.name}": set(metric.tags) for metric in LOAD_TEST}


def queries() -> Iterator[tuple[str, str]]:
    for board in BOARDS:
        for figure in board.figures:
            for target in figure.targets:
                yield f"{board.slug}: {figure.title.en}", target.query
    for rule in alerts.RULES:
        yield from ((rule.uid, query) for query in rule.queries)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.slug)
def test_every_panel_is_explained_in_one_line(board: Board, language: Language) -> None:
    expected = [(figure.title.of(language), figure.about.of(language)) for figure in board.figures]
    assert rows(board.title.of(language), language) == expected


def test_every_metric_of_the_gateway_has_its_row() -> None:
    units = {"seconds": {"histogram": ", ms", "counter": ", s"}}
    expected = [
        (
            f"`gw_{metric.short}`",
            "timing" if metric.kind == "histogram" else metric.kind,
            labels(metric.labels),
            metric.help + units.get(metric.unit, {}).get(metric.kind, ""),
        )
        for metric in TABLE
    ]
    assert rows("The gateway's") == expected


def test_every_metric_of_the_sidecar_has_its_row() -> None:
    expected = [(f"`gw_{metric.name}`", metric.kind, labels(metric.tags), metric.help) for metric in CARDS]
    assert rows("The GPU sidecar's") == expected


def test_every_metric_of_a_load_test_has_its_row() -> None:
    expected = [
        (f"`gw_{metric.name}`", metric.kind, labels(metric.tags), metric.help) for metric in LOAD_TEST
    ]
    assert rows("A load test's") == expected


def test_every_alert_has_its_row() -> None:
    assert rows("Alerts") == [(rule.title, rule.summary, rule.severity) for rule in alerts.RULES]


def test_dashboards_and_alerts_ask_only_for_what_somebody_sends() -> None:
    for where, query in queries():
        for name in re.findall(r'"(gw_\w+)"', query):
            assert name in known(), f"{where} asks for {name}"


def test_dashboards_and_alerts_ask_only_for_tags_that_exist() -> None:
    for where, query in queries():
        names = set(re.findall(r'"(gw_\w+)"', query))
        if not names:
            continue
        tags = set.union(*(known()[name] for name in names)) | ALWAYS
        grouped = re.search(r'GROUP BY time\([^)]*\)((?:, "\w+")*) fill\(\w+\)$', query)
        used = set(re.findall(r'"(\w+)"', grouped[1])) if grouped else set()
        used |= set(re.findall(r'"(\w+)" (?:=~|!=|=) ', query)) - {"model", "value"}
        assert used <= tags, f"{where} asks for {used - tags} of {names}"


def test_every_metric_that_is_sent_is_on_a_dashboard_or_left_out_on_purpose() -> None:
    shown = {name for _, query in queries() for name in re.findall(r'"(gw_\w+)"', query)}
    on_purpose = {
        "gw_http_requests",  # every route; dashboards show generations
        "gw_http_requests_open",
        "gw_generations_open",
        "gw_generations",  # the same requests by outcome; requests by status are shown
        "gw_workers",  # only where there is more than one process: docs/OPERATIONS.md says when to look
        "gw_worker_ends",
        "gw_places_lent",
        "gw_gpu_memory_free_bytes",  # total less used
        "gw_energy_window_joules",
        "gw_energy_cost",
    }
    assert set(known()) - shown == on_purpose
