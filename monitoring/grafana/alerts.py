"""Alert rules, provisioned into Grafana. Thresholds stand here; each rule says what to do in its summary.

Grafana replaces ``${NAME}`` in provisioned texts by environment variables, so no text for people has a ``$``.
A rule over two measurements asks for both and compares their newest values: InfluxQL cannot join them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from monitoring.grafana.variables import SOURCE

GIB = 1 << 30
P99_TARGET_MS = 120_000
FAILED_PERCENT = 2
STRANGE_MEMORY_BYTES = 2 * GIB
HOT_CELSIUS = 87
RESTARTS = 3

Severity = Literal["critical", "warning"]
NoData = Literal["OK", "Alerting"]
Side = Literal["gt", "lt"]
WINDOW = "time > now() - 10m"


@dataclass(frozen=True, slots=True)
class Rule:
    """Fires when the newest value is on the wrong ``side`` of ``limit`` for ``lasting``.

    With several queries the value is ``formula``, in which ``$A`` and ``$B`` stand for their newest values.
    """

    uid: str
    title: str
    queries: tuple[str, ...]
    side: Side
    limit: float
    lasting: str
    severity: Severity
    summary: str
    board: str
    minutes: int = 10
    """How far back ``query`` looks; the same as in its text."""
    no_data: NoData = "OK"
    formula: str = "$A"


def _per_minute(what: str, source: str, where: str = "", by: str = "") -> str:
    extra = f" AND {where}" if where else ""
    tags = f', "{by}"' if by else ""
    return f'SELECT {what} FROM "raw"."{source}" WHERE {WINDOW}{extra} GROUP BY time(1m){tags} fill(none)'


def _sum_of_gauge(source: str, by: str, where: str = "") -> str:
    """The newest value of each series, added up."""
    each = _per_minute('last("value") AS "v"', source, where, by)
    return f'SELECT sum("v") FROM ({each}) WHERE {WINDOW} GROUP BY time(1m) fill(none)'


_FAILED = (
    'SELECT 100 * sum("some") / sum("all") FROM '
    f'(SELECT "value" AS "all" FROM "raw"."gw_requests" WHERE {WINDOW}), '
    f'(SELECT "value" AS "some" FROM "raw"."gw_requests" WHERE {WINDOW} AND "status" =~ /^5/) '
    f"WHERE {WINDOW} GROUP BY time(5m) fill(0)"
)

RULES = (
    Rule(
        "gw-none-ready",
        "No model is ready and requests wait",
        (
            _sum_of_gauge("gw_model_state", "model", "\"state\" = 'ready'"),
            _sum_of_gauge("gw_queued", "model"),
        ),
        "gt",
        0,
        "3m",
        "critical",
        "Requests wait and no model can answer for three minutes. Look at the state timeline: a failed model"
        " has its reason in GET /v1/models and its log in GET /v1/models/ID/logs.",
        "models",
        formula="$A < 1 && $B > 0",
    ),
    Rule(
        "gw-p99",
        "P99 of the whole request is over its target",
        (_per_minute('max("99_percentile")', "gw_total", by="model"),),
        "gt",
        P99_TARGET_MS,
        "5m",
        "warning",
        "One request in a hundred takes longer than two minutes. Waiting and loading are in it: compare with"
        " the worst wait and with the first token.",
        "overview",
    ),
    Rule(
        "gw-failed",
        "Too many answers are errors",
        (_FAILED,),
        "gt",
        FAILED_PERCENT,
        "5m",
        "critical",
        "More than 2 % of the answers are 5xx. The overview says of which model and of which kind.",
        "overview",
    ),
    Rule(
        "gw-memory",
        "Device memory is held by nobody we know",
        (
            _sum_of_gauge("gw_device_memory_bytes", "device", "\"kind\" = 'used'"),
            _sum_of_gauge("gw_model_memory_bytes", "model"),
        ),
        "gt",
        STRANGE_MEMORY_BYTES,
        "5m",
        "warning",
        "The device says that 2 GiB more are in use than the models in it account for. A stopped engine may"
        " not have given its memory back; the GPU dashboard lists processes.",
        "models",
        formula="$A - $B",
    ),
    Rule(
        "gw-restarts",
        "An engine keeps ending",
        ('SELECT sum("value") FROM "raw"."gw_engine_restarts" WHERE time > now() - 15m GROUP BY "model"',),
        "gt",
        RESTARTS,
        "0s",
        "warning",
        "An engine ended by itself more than three times in 15 minutes. Its last words are in"
        " GET /v1/models/ID/logs.",
        "engines",
        minutes=15,
    ),
    Rule(
        "gw-gpu-hot",
        "A card is hot",
        (_per_minute('max("value")', "gw_gpu_temperature_celsius", by="gpu"),),
        "gt",
        HOT_CELSIUS,
        "2m",
        "warning",
        "A card is above 87 °C and will slow down, then stop. Check its fan and the room.",
        "gpu",
    ),
    Rule(
        "gw-gpu-lost",
        "A card does not answer",
        (_per_minute('last("value")', "gw_gpu_up", by="gpu"),),
        "lt",
        1,
        "2m",
        "critical",
        "The driver no longer knows a card that it knew. Its engines fail; the host's kernel log says why.",
        "gpu",
    ),
    Rule(
        "gw-silent",
        "The gateway's figures do not arrive",
        ('SELECT count("value") FROM "raw"."gw_model_state" WHERE time > now() - 3m',),
        "lt",
        1,
        "1m",
        "critical",
        "Nothing came in for three minutes: the gateway, Telegraf or InfluxDB is down, or the gateway has no"
        " GATEWAY_STATSD_HOST. All other rules are blind until then.",
        "overview",
        minutes=3,
        no_data="Alerting",
    ),
    Rule(
        "gw-lost",
        "Figures are being lost",
        (_per_minute('spread("metrics_dropped")', "internal_write"),),
        "gt",
        0,
        "5m",
        "warning",
        "Telegraf's buffer is full because InfluxDB does not take its points; the oldest are thrown away.",
        "overview",
    ),
)


def _data(rule: Rule) -> list[dict[str, Any]]:
    """Queries A and B, their newest values, the formula over those, and the limit."""
    letters = [chr(ord("A") + place) for place in range(len(rule.queries))]
    formula = re.sub(r"\$(\w)", r"$newest_\1", rule.formula)
    condition = {"evaluator": {"type": rule.side, "params": [rule.limit]}}
    return [
        *(_query(ref, query, rule.minutes) for ref, query in zip(letters, rule.queries, strict=True)),
        *(_expression(f"newest_{ref}", "reduce", ref, reducer="last") for ref in letters),
        _expression("value", "math", formula),
        _expression("limit", "threshold", "value", conditions=[condition]),
    ]


def _query(ref: str, query: str, minutes: int) -> dict[str, Any]:
    return {
        "refId": ref,
        "relativeTimeRange": {"from": minutes * 60, "to": 0},
        "datasourceUid": SOURCE,
        "model": {"refId": ref, "query": query, "rawQuery": True, "resultFormat": "time_series"},
    }


def _expression(ref: str, kind: str, expression: str, **more: Any) -> dict[str, Any]:
    return {
        "refId": ref,
        "relativeTimeRange": {"from": 0, "to": 0},
        "datasourceUid": "__expr__",
        "model": {"refId": ref, "type": kind, "expression": expression, **more},
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "uid": rule.uid,
        "title": rule.title,
        "condition": "limit",
        "data": _data(rule),
        "noDataState": rule.no_data,
        "execErrState": "Error",
        "for": rule.lasting,
        "dashboardUid": f"gw-{rule.board}",
        "panelId": 2,
        "annotations": {"summary": rule.summary},
        "labels": {"severity": rule.severity, "service": "gateway"},
    }


def as_yaml() -> str:
    """The provisioning file."""
    group = {
        "orgId": 1,
        "name": "gateway",
        "folder": "Gateway",
        "interval": "1m",
        "rules": [_rule(rule) for rule in RULES],
    }
    head = "# Made by `python -m monitoring.grafana` from monitoring/grafana/alerts.py; change it there.\n"
    body: str = yaml.safe_dump(
        {"apiVersion": 1, "groups": [group]}, sort_keys=False, allow_unicode=True, width=110
    )
    return head + body
