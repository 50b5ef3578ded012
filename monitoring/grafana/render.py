"""From our own description of a dashboard to Grafana's JSON, with Grafana's Foundation SDK."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, dashboard, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog import builder as cogbuilder
from grafana_foundation_sdk.cog import variants as cogvariants
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models

from monitoring.grafana.board import Board, Figure, Language, Level, Target
from monitoring.grafana.variables import VARIABLES

SOURCE = "gw-influxdb"
_SOURCE = models.DataSourceRef(type_val="influxdb", uid=SOURCE)
_NO_DATA = {"en": "no data", "zh": "无数据"}
_LINKS = {"en": "Gateway dashboards", "zh": "网关仪表盘"}


@dataclass(slots=True)
class InfluxQuery(cogvariants.Dataquery):
    """A raw InfluxQL query; the SDK has no type for it."""

    ref: str
    query: str
    alias: str

    def to_json(self) -> dict[str, object]:
        return {
            "refId": self.ref,
            "datasource": {"type": "influxdb", "uid": SOURCE},
            "rawQuery": True,
            "query": self.query,
            "alias": self.alias,
            "resultFormat": "time_series",
        }


class Query(cogbuilder.Builder[cogvariants.Dataquery]):
    """What the SDK's panels take for a target."""

    def __init__(self, ref: str, target: Target, language: Language) -> None:
        self._query = InfluxQuery(ref, target.query, target.alias.of(language))

    def build(self) -> cogvariants.Dataquery:
        return self._query


Panel = Any  # the SDK's panel builders share their methods, but no base class


def build(board: Board, language: Language) -> dict[str, Any]:
    """The JSON model of one dashboard in one language."""
    made = (
        dashboard.Dashboard(board.title.of(language))
        .uid(board.uid(language))
        .description(board.about.of(language))
        .tags(["gateway", f"gateway-{language}"])
        .timezone("browser")
        .time(board.since, "now")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(_link(language))
    )
    if board.refresh:
        made.refresh(board.refresh)
    for name in board.variables:
        made.with_variable(VARIABLES[name](language, board.retention))
    _add_panels(made, board, language)
    built: dict[str, Any] = _plain(made.build().to_json())
    return built


def _plain(found: Any) -> Any:
    """The SDK's objects inside its dictionaries as dictionaries, all the way down."""
    if hasattr(found, "to_json"):
        return _plain(found.to_json())
    if isinstance(found, dict):
        return {key: _plain(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [_plain(value) for value in found]
    return found


def _add_panels(made: dashboard.Dashboard, board: Board, language: Language) -> None:
    number = 1
    step = "$interval" if board.retention == "raw" else "$long_interval"
    for section in board.sections:
        made.with_row(dashboard.Row(section.title.of(language)).id(number))
        number += 1
        for figure in section.figures:
            made.with_panel(_panel(figure, language).id(number).interval(step))
            number += 1


def _link(language: Language) -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink(_LINKS[language])
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([f"gateway-{language}"])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
    )


def _panel(figure: Figure, language: Language) -> Panel:
    panel = _DRAWN[figure.kind](figure, language)
    panel.title(figure.title.of(language)).description(figure.about.of(language))
    panel.datasource(_SOURCE).unit(figure.unit).no_value(_NO_DATA[language])
    panel.height(figure.height).span(figure.width)
    if figure.minimum is not None:
        panel.min(figure.minimum)
    if figure.maximum is not None:
        panel.max(figure.maximum)
    if figure.decimals is not None:
        panel.decimals(figure.decimals)
    for number, target in enumerate(figure.targets):
        panel.with_target(Query(chr(ord("A") + number), target, language))
    for pattern, colour in figure.colours.items():
        panel.override_by_regexp(f"/{pattern}/", [_fixed(colour)])
    return panel


def _fixed(colour: str) -> models.DynamicConfigValue:
    return models.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})


def _levels(found: Sequence[Level]) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(value=level.value, color=level.colour) for level in found]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _colour(mode: models.FieldColorModeId) -> dashboard.FieldColor:
    return dashboard.FieldColor().mode(mode)


def _legend(shown: bool = True) -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(kinds.LegendDisplayMode.LIST)
        .placement(kinds.LegendPlacement.BOTTOM)
        .show_legend(shown)
    )


def _series(figure: Figure, language: Language) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .legend(_legend())
        .tooltip(
            common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING)
        )
        .color_scheme(_colour(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .span_nulls(30_000)
    )
    if figure.tint:
        shades = dashboard.FieldColor().mode(models.FieldColorModeId.SHADES).fixed_color(figure.tint)
        panel.color_scheme(shades)
    if figure.levels:
        panel.thresholds(_levels(figure.levels))
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED)
        )
    return panel


def _lines(figure: Figure, language: Language) -> timeseries.Panel:
    return _series(figure, language).line_width(2).fill_opacity(8)


def _stack(figure: Figure, language: Language) -> timeseries.Panel:
    """Areas on each other. What is said of the device as a whole is a line over them."""
    panel = _series(figure, language).line_width(1).fill_opacity(45)
    panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A"))
    apart = [
        ("custom.stacking", {"mode": "none", "group": "B"}),
        ("custom.fillOpacity", 0),
        ("custom.lineWidth", 2),
    ]
    values = [models.DynamicConfigValue(id_val=name, value=value) for name, value in apart]
    return panel.override_by_regexp("/^(device|设备) /", values)


def _bars(figure: Figure, language: Language) -> timeseries.Panel:
    panel = _series(figure, language).draw_style(kinds.GraphDrawStyle.BARS).line_width(0).fill_opacity(80)
    return panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A"))


def _reduce(figure: Figure) -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs([figure.reduce]).fields("").values(False)


def _number(figure: Figure, language: Language) -> stat.Panel:
    return (
        stat.Panel()
        .reduce_options(_reduce(figure))
        .graph_mode(kinds.BigValueGraphMode.AREA)
        .color_mode(kinds.BigValueColorMode.VALUE)
        .color_scheme(_colour(models.FieldColorModeId.THRESHOLDS))
        .thresholds(_levels(figure.levels))
    )


def _gauges(figure: Figure, language: Language) -> bargauge.Panel:
    panel = (
        bargauge.Panel()
        .reduce_options(_reduce(figure))
        .orientation(kinds.VizOrientation.HORIZONTAL)
        .display_mode(kinds.BarGaugeDisplayMode.BASIC)
        .color_scheme(_colour(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    )
    return panel.thresholds(_levels(figure.levels)) if figure.levels else panel


def _states(figure: Figure, language: Language) -> statetimeline.Panel:
    """One bar per series, coloured by value. Values are named here and nowhere else."""
    shown = {
        str(value): models.ValueMappingResult(text=text.of(language), color=colour, index=place)
        for place, (value, (text, colour)) in enumerate(figure.names.items())
    }
    return (
        statetimeline.Panel()
        .mappings([models.ValueMap(options=shown)])
        .color_scheme(_colour(models.FieldColorModeId.THRESHOLDS))
        .thresholds(_levels([Level(None, "#808080")]))
        .show_value(kinds.VisibilityMode.AUTO)
        .merge_values(True)
        .row_height(0.8)
        .fill_opacity(85)
        .line_width(0)
        .legend(_legend())
    )


_DRAWN: dict[str, Callable[[Figure, Language], Panel]] = {
    "lines": _lines,
    "stack": _stack,
    "bars": _bars,
    "number": _number,
    "gauges": _gauges,
    "states": _states,
}
