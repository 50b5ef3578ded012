"""The variables at the top of a dashboard. Their values come from what is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models

from monitoring.grafana.board import Language, Text

SOURCE = "gw-influxdb"
SHORT_STEPS = ("10s", "30s", "1m", "5m", "1h")
LONG_STEPS = ("5m", "1h", "6h", "1d", "7d")
_ALL = Text("All", "全部")

Variable = Any  # the SDK's variable builders share no base class


def _values(
    name: str, label: Text, query: Callable[[str], str]
) -> Callable[[Language, str], dashboard.QueryVariable]:
    def made(language: Language, retention: str) -> dashboard.QueryVariable:
        return (
            dashboard.QueryVariable(name)
            .label(label.of(language))
            .datasource(models.DataSourceRef(type_val="influxdb", uid=SOURCE))
            .query(query(retention))
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(models.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(models.VariableOption(text=[_ALL.of(language)], value=["$__all"], selected=True))
        )

    return made


def _steps(
    name: str, label: Text, steps: tuple[str, ...]
) -> Callable[[Language, str], dashboard.CustomVariable]:
    """The shortest step of a panel. Wide ranges take longer ones by themselves."""

    def made(language: Language, retention: str) -> dashboard.CustomVariable:
        options = [models.VariableOption(text=step, value=step, selected=step == steps[0]) for step in steps]
        return (
            dashboard.CustomVariable(name)
            .label(label.of(language))
            .values(",".join(steps))
            .options(options)
            .current(options[0])
        )

    return made


def _tag_values(tag: str, measurement: str) -> Callable[[str], str]:
    return lambda retention: f'SHOW TAG VALUES FROM "{retention}"."{measurement}" WITH KEY = "{tag}"'


VARIABLES: dict[str, Callable[[Language, str], Variable]] = {
    "model": _values("model", Text("Model", "模型"), _tag_values("model", "gw_requests")),
    "host": _values("host", Text("Host", "主机"), _tag_values("host", "gw_requests")),
    "gpu": _values("gpu", Text("GPU", "GPU"), _tag_values("gpu", "gw_gpu_up")),
    "interval": _steps("interval", Text("Shortest step", "最短步长"), SHORT_STEPS),
    "long_interval": _steps("long_interval", Text("Shortest step", "最短步长"), LONG_STEPS),
}
