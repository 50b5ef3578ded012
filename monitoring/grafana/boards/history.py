"""The long run, from the five-minute points that are kept for 400 days."""

from __future__ import annotations

from monitoring.grafana.board import GREEN, RED, YELLOW, Board, Figure, Section, Text
from monitoring.grafana.queries import added, percentile

_KEPT = "long"

_LONG = (
    Figure(
        Text("Requests", "请求"),
        Text("In each step, by status", "每步请求数，按状态"),
        "bars",
        "short",
        (added("requests", ("status",), "$tag_status", retention=_KEPT),),
        colours={"^2": GREEN, "^4": YELLOW, "^5": RED},
    ),
    Figure(
        Text("Tokens out", "输出 token"),
        Text("In each step, by model", "每步输出，按模型"),
        "bars",
        "short",
        (added("tokens_out", ("model",), retention=_KEPT),),
    ),
    Figure(
        Text("P95 of the whole request", "P95 总时长"),
        Text("The worst flush of each step", "每步最差的一次"),
        "lines",
        "ms",
        (percentile("total", "95_percentile", ("model",), retention=_KEPT),),
    ),
    Figure(
        Text("Time lost to switching", "切换损失时间"),
        Text("Seconds in each step, by model that came in", "每步损失秒数，按换入的模型"),
        "bars",
        "s",
        (added("switch_lost_seconds", ("model",), retention=_KEPT),),
    ),
)

BOARD = Board(
    "history",
    Text("Gateway: history", "网关：历史"),
    Text(
        "Weeks and months, from five-minute points that are kept for 400 days",
        "按周与月，数据为五分钟一点、保留 400 天",
    ),
    (Section(Text("The long run", "长期"), _LONG),),
    variables=("model", "host", "long_interval"),
    since="now-30d",
    refresh="",
    retention=_KEPT,
)
