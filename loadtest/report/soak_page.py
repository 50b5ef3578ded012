"""docs/SOAK_TEST.md: one long run, and whether what the gateway holds stays what it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from loadtest.report import figures, plots, shared, tables
from loadtest.report.words import NOTHING, Say, ms, number, seconds, span, table
from loadtest.results import PartData, Results
from loadtest.stats import Interval, slope, spread

NAME = "SOAK_TEST"
WARM: Final = 0.5
"""The share of the run that is left out of slopes: caches fill, connections have come and gone at their most,
and Python keeps what it once had. The table has what came before, too."""
HARMLESS: Final = 0.02
"""A growth of less than this share in an hour is no leak that anybody would see in a month of restarts."""
ARENA_MIB: Final = 1.0
"""Python takes memory in arenas of this size: what grew by less than one can be a single step, and no slope."""


@dataclass(frozen=True, slots=True)
class Trend:
    """One figure over the run: its level in the middle, and its slope per hour with a 95 % interval."""

    name: tuple[str, str]
    unit: str
    level: float
    per_hour: Interval | None
    last_third: tuple[float, float]
    grown: float
    """From the first minute that counts to the last."""

    @property
    def flat(self) -> bool:
        """No slope can be told from zero, or it is too small to matter."""
        if self.per_hour is None:
            return False
        one_step = self.unit == "MiB" and self.grown < ARENA_MIB
        return one_step or not self.per_hour.low > 0 or self.per_hour.value <= HARMLESS * self.level


def _gateway(name: str, unit: float = 1.0) -> Callable[[dict[str, Any]], float | None]:
    return lambda row: row["gateway"][name] / unit if row.get("gateway") else None


def _supervisors(row: dict[str, Any]) -> float | None:
    found = row.get("supervisors")
    return sum(one["rss"] for one in found) / 2**20 if found else None


FIGURES: Final[Sequence[tuple[tuple[str, str], str, Callable[[dict[str, Any]], float | None]]]] = (
    (("memory of the gateway", "网关内存"), "MiB", _gateway("rss", 2**20)),
    (("memory of the supervisors", "监管进程内存"), "MiB", _supervisors),
    (("file descriptors of the gateway", "网关文件描述符"), "", _gateway("fds")),
    (("sockets of the gateway", "网关套接字"), "", _gateway("sockets")),
    (("threads of the gateway", "网关线程"), "", _gateway("threads")),
)


def trends(part: PartData) -> list[Trend]:
    """Slopes through the medians of minutes, without the first half of the run."""
    found = []
    for name, unit, read in FIGURES:
        points = minutes(part, read)
        if points:
            per_hour = slope([(at / 3600, value) for at, value in points])
            last = [value for at, value in points if at >= part.seconds * 2 / 3] or [points[-1][1]]
            middle = median(value for _, value in points)
            grown = points[-1][1] - points[0][1]
            found.append(Trend(name, unit, middle, per_hour, (last[0], last[-1]), grown))
    return found


def minutes(
    part: PartData, read: Callable[[dict[str, Any]], float | None], width_s: float = 60.0
) -> list[tuple[float, float]]:
    """The median of each whole minute after the warm-up: (seconds from the beginning, value)."""
    start = WARM * part.seconds
    bins: dict[int, list[float]] = {}
    for row in part.samples:
        at = row["t"] - part.began
        value = read(row)
        if start <= at < part.seconds and value is not None:
            bins.setdefault(int(at // width_s), []).append(value)
    return [((index + 0.5) * width_s, median(values)) for index, values in sorted(bins.items())]


def draw(found: Results, folder: Path) -> list[Path]:
    part = found.parts[0]
    plots.over_time(part, folder / "soak-time.svg")
    plots.programs(part, folder / "soak-programs.svg")
    return [folder / "soak-time.svg", folder / "soak-programs.svg"]


def in_short(found: Results, say: Say) -> list[str]:
    part = found.parts[0]
    failed = sum(record.outcome == "failed" for record in part.records)
    rates = figures.rates(part)
    lines = [
        say(
            f"{span(part.seconds)}, {found.head['options']['users']} users, {number(len(part.records))} requests, "
            f"{number(failed)} errors, {rates.answers:.1f} answers a second.",
            f"{span(part.seconds)}，{found.head['options']['users']} 个用户，{number(len(part.records))} 个请求，"
            f"错误 {number(failed)}，每秒 {rates.answers:.1f} 个回答。",
        ),
        shared.agreement_sentence(found, say),
    ]
    return [
        *lines,
        *(_trend(trend, say) for trend in trends(part)),
        _halves(part, say),
        shared.crowded(found, say),
    ]


def _trend(trend: Trend, say: Say) -> str:
    name = say(*trend.name)
    if trend.per_hour is None:
        return say(f"{name}: too short a run for a slope.", f"{name}：运行太短，无法得出斜率。")
    unit = f" {trend.unit}" if trend.unit else ""
    slope_ = trend.per_hour
    verdict = say("flat" if trend.flat else "**it grows**", "平稳" if trend.flat else "**在增长**")
    return say(
        f"{name}: {verdict}. {trend.level:.1f}{unit} in the middle; {slope_.value:+.2f}{unit} an hour "
        f"(95 %: {slope_.low:+.2f} to {slope_.high:+.2f}); {trend.last_third[0]:.2f} at the beginning of the last third, "
        f"{trend.last_third[1]:.2f} at its end; {trend.grown:+.2f} in all.",
        f"{name}：{verdict}。中位 {trend.level:.1f}{unit}；每小时 {slope_.value:+.2f}{unit}"
        f"（95 %：{slope_.low:+.2f} 至 {slope_.high:+.2f}）；最后三分之一开始时 {trend.last_third[0]:.2f}，"
        f"结束时 {trend.last_third[1]:.2f}；总计 {trend.grown:+.2f}。",
    )


def _halves(part: PartData, say: Say) -> str:
    """Whether it is as fast at the end as it was: the gateway's own share, halves of the run beside each other."""
    middle = part.began + part.seconds / 2
    first, second = (
        figures.receipt_part([one for one in part.records if (one.at < middle) is early], "gateway_ms")
        for early in (True, False)
    )
    return say(
        f"The gateway's own share of a request: P50 {ms(first.p50)} ms and P99 {ms(first.p99)} ms in the first half, "
        f"{ms(second.p50)} ms and {ms(second.p99)} ms in the second.",
        f"网关在每个请求中的自身耗时：前半程 P50 {ms(first.p50)} 毫秒、P99 {ms(first.p99)} 毫秒，后半程 "
        f"{ms(second.p50)} 毫秒和 {ms(second.p99)} 毫秒。",
    )


def page(found: Results, say: Say) -> str:
    part = found.parts[0]
    title = say("# Soak test", "# 长时间测试")
    other = say("[简体中文](SOAK_TEST.zh-CN.md)", "[English](SOAK_TEST.md)")
    command = f"```console\n.venv/bin/python -m loadtest --soak {_duration(part.seconds)}\n```"
    written = say(
        "All kinds of users for a long time, with switches all along. Written by this command:",
        "所有类型的用户长时间运行，期间不断切换。由此命令写出：",
    )
    parts = [
        title,
        other,
        written,
        command,
        shared.engine_of(found, say),
        f"## {say('In short', '摘要')}",
        "\n".join(f"* {line}" for line in in_short(found, say)),
        _slopes(part, say),
        f"![{say('over time', '随时间')}](img/soak-programs.svg)",
        _quarters(part, say),
        f"![{say('over time', '随时间')}](img/soak-time.svg)",
        tables.times(found, part, say),
        tables.switches(found, part, say),
        shared.counts(found, say),
        shared.machine(found, say),
    ]
    return "\n\n".join(parts) + "\n"


def _duration(value: float) -> str:
    return f"{value / 60:g}m" if value >= 60 else f"{value:g}s"


def _slopes(part: PartData, say: Say) -> str:
    about = say(
        "Least squares through the median of each minute, the first half of the run left out; the interval is "
        "Student's. *flat*: the interval does not lie above zero, the growth in an hour is below 2 % of the level, or, "
        "for memory, the growth in all is below 1 MiB: Python takes memory in arenas of that size, so less can be one step. "
        "Engines come and go with each switch, so a slope of theirs would say nothing.",
        "对每分钟的中位数做最小二乘，去掉前一半；区间为学生 t 区间。*平稳*：区间不在零之上，或每小时增长低于水平的 2 %；"
        "对内存而言，总增长低于 1 MiB 也算平稳：Python 以该大小的块（arena）申请内存，更小的增长可能只是一个台阶。"
        "引擎随每次切换而生灭，其斜率没有意义。",
    )
    head = say("what|level|per hour|95 % from|to|flat", "内容|水平|每小时|95 % 自|至|平稳").split("|")
    rows = []
    for trend in trends(part):
        inside = trend.per_hour
        cells = (
            [NOTHING] * 3
            if inside is None
            else [f"{v:+.2f}" for v in (inside.value, inside.low, inside.high)]
        )
        name = say(*trend.name) + (f", {trend.unit}" if trend.unit else "")
        rows.append(
            [name, f"{trend.level:.1f}", *cells, say("yes", "是") if trend.flat else say("**no**", "**否**")]
        )
    return f"## {say('Slopes', '斜率')}\n\n{about}\n\n{table(head, rows)}"


def _quarters(part: PartData, say: Say) -> str:
    head = say(
        "quarter|answers|own P50 s|own P99 s|gateway P50 ms|P99 ms|errors",
        "四分之一|回答|净时 P50 s|净时 P99 s|网关 P50 ms|P99 ms|错误",
    ).split("|")
    rows = []
    for index in range(4):
        start = part.began + index * part.seconds / 4
        ours = [one for one in part.records if start <= one.at < start + part.seconds / 4]
        done = [one for one in ours if one.outcome == "ok"]
        own, gateway = spread(map(figures.own_ms, done)), figures.receipt_part(done, "gateway_ms")
        failed = sum(one.outcome == "failed" for one in ours)
        times = [*map(seconds, (own.p50, own.p99)), *map(ms, (gateway.p50, gateway.p99))]
        rows.append([f"{index + 1}", number(len(done)), *times, number(failed)])
    return f"## {say('Quarter by quarter', '逐段对比')}\n\n{table(head, rows)}"
