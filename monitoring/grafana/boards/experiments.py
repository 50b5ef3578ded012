"""Arms of a split beside each other: is the new one as good, and is the difference more than noise."""

from __future__ import annotations

from monitoring.grafana.board import RED, Board, Figure, Section, Target, Text, levels
from monitoring.grafana.queries import (
    PERCENTILES,
    added,
    mean,
    percentile,
    rate,
    share,
)

_ARM = "\"arm\" != 'none' AND \"arm\" != ''"
_FAILED = '"status" =~ /^5/'


def _by_arm(kind: str, name: str) -> tuple[Target, ...]:
    return tuple(
        percentile(name, field, ("arm",), f"P{number} $tag_arm", where=_ARM, by_model=False)
        for number, field in PERCENTILES
        if number in kind
    )


_WHO = (
    Figure(
        Text("Requests of each arm", "各分支请求"),
        Text(
            "All requests of the time shown: compare with the weights that you set",
            "所示时间内的请求总数：与设定权重对照",
        ),
        "gauges",
        "short",
        (added("requests", ("arm",), "$tag_arm", where=_ARM, by_model=False),),
        width=8,
        reduce="sum",
        decimals=0,
    ),
    Figure(
        Text("Requests per second", "每秒请求"),
        Text("Of each arm", "各分支"),
        "lines",
        "reqps",
        (rate("requests", ("arm",), "$tag_arm", where=_ARM, by_model=False),),
        width=8,
    ),
    Figure(
        Text("Failed", "失败率"),
        Text("Share of 5xx answers of each arm", "各分支 5xx 应答比例"),
        "lines",
        "percent",
        (share("requests", _FAILED, ("arm",), "$tag_arm", where=_ARM, by_model=False),),
        width=8,
        levels=levels("transparent", (2, RED)),
    ),
)

_SPEED = (
    Figure(
        Text("First token", "首 token"),
        Text("P50 and P95 of each arm", "各分支 P50 与 P95"),
        "lines",
        "ms",
        _by_arm("50 95", "first_token"),
    ),
    Figure(
        Text("Whole request", "总时长"),
        Text("P50 and P95 of each arm", "各分支 P50 与 P95"),
        "lines",
        "ms",
        _by_arm("50 95", "total"),
    ),
    Figure(
        Text("Between tokens", "token 间隔"),
        Text("Mean of each arm", "各分支平均值"),
        "lines",
        "ms",
        (mean("between_tokens", ("arm",), "$tag_arm", where=_ARM, by_model=False),),
        width=8,
    ),
    Figure(
        Text("Tokens per second of one request", "单请求每秒 token"),
        Text("The median answer of each arm", "各分支应答的中位数"),
        "lines",
        "short",
        (percentile("tokens_per_second", "50_percentile", ("arm",), "$tag_arm", where=_ARM, by_model=False),),
        width=8,
    ),
    Figure(
        Text("Tokens out", "输出 token"),
        Text("Per second and arm: longer answers of one arm show here", "各分支每秒输出：回答更长会在此体现"),
        "lines",
        "short",
        (rate("tokens_out", ("arm",), "$tag_arm", where=_ARM, by_model=False),),
        width=8,
    ),
)

_INSTEAD = (
    Figure(
        Text("Answered by the fallback", "由后备模型应答"),
        Text("Requests whose model could not answer, and who did", "原模型无法应答时由谁应答"),
        "bars",
        "short",
        (
            added(
                "fallbacks",
                ("model", "to"),
                Text("$tag_model to $tag_to", "$tag_model 至 $tag_to"),
                by_model=False,
            ),
        ),
        width=24,
        height=6,
    ),
)

BOARD = Board(
    "experiments",
    Text("Gateway: experiments", "网关：实验"),
    Text("Arms of a split beside each other", "分流各分支对比"),
    (
        Section(Text("Who gets what", "分流"), _WHO),
        Section(Text("How fast", "速度"), _SPEED),
        Section(Text("Instead of another", "后备"), _INSTEAD),
    ),
    variables=("host", "interval"),
    since="now-3h",
)
