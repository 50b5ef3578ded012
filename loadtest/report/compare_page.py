"""docs/COMPARISON_TEST.md: two sides measured in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loadtest.report import plots, shared
from loadtest.report.differences import FEWEST_PAIRS, Difference, differences
from loadtest.report.words import Say, number, table
from loadtest.results import Results

NAME = "COMPARISON_TEST"


def _sides(found: Results) -> tuple[str, str]:
    first, second = (side["said"] for side in found.head["sides"])
    return first, second


def draw(found: Results, folder: Path) -> list[Path]:
    path = folder / "loadtest-comparison.svg"
    a, b = _sides(found)
    rows = differences(found)
    with plots.drawn(path, 1, 1.1 + 0.5 * len(rows)) as (axes,):
        _bars(axes, rows)
        axes.set_xlabel(f"difference of B from A, per cent (dots: pairs; bars: intervals)\nA: {a}, B: {b}")
        axes.axvline(0, color=plots.GREY, linewidth=1)
    return [path]


def _bars(axes: Any, rows: list[Difference]) -> None:
    for index, row in enumerate(rows):
        at = len(rows) - index
        colour = plots.ORANGE if row.percent.clear else plots.BLUE
        axes.plot([row.percent.low, row.percent.high], [at, at], color=colour, linewidth=6, alpha=0.35)
        axes.plot(row.pairs, [at] * len(row.pairs), "o", color=colour, markersize=3)
        axes.plot([row.percent.value], [at], "|", color=colour, markersize=16)
    axes.set_yticks([len(rows) - index for index in range(len(rows))], [row.name[0] for row in rows])
    axes.set_ylim(0, len(rows) + 1)


def in_short(found: Results, say: Say) -> list[str]:
    a, b = _sides(found)
    rows = differences(found)
    clear = [row for row in rows if row.percent.clear]
    lines = [shared.agreement_sentence(found, say)]
    if not rows:
        return [
            *lines,
            say(f"{FEWEST_PAIRS} pairs are the least for intervals.", f"至少要 {FEWEST_PAIRS} 对才有区间。"),
        ]
    if not clear:
        widest = max(rows, key=lambda row: row.percent.high - row.percent.low).name
        sharpest = min(rows, key=lambda row: row.percent.high - row.percent.low)
        inside = sharpest.percent
        lines.append(
            say(
                f"No difference between {a} and {b}: every interval has zero inside. The narrowest is that of "
                f"*{sharpest.name[0]}* ({inside.low:+.1f} to {inside.high:+.1f} %), the widest that of *{widest[0]}*: what is "
                "smaller than they are wide could not be seen.",
                f"{a} 与 {b} 之间没有差异：所有区间都包含零。最窄的是*{sharpest.name[1]}*（{inside.low:+.1f} 至 "
                f"{inside.high:+.1f} %），最宽的是*{widest[1]}*：小于区间宽度的差异无法看出。",
            )
        )
    return [*lines, *(_sentence(row, a, b, say) for row in clear)]


def _sentence(row: Difference, a: str, b: str, say: Say) -> str:
    more = row.percent.value > 0
    return say(
        f"{row.name[0]}: {b} has {abs(row.percent.value):.1f} % {'more' if more else 'less'} than {a} "
        f"({row.percent.low:+.1f} to {row.percent.high:+.1f} %).",
        f"{row.name[1]}：{b} 比 {a} {'多' if more else '少'} {abs(row.percent.value):.1f} %"
        f"（{row.percent.low:+.1f} 至 {row.percent.high:+.1f} %）。",
    )


def page(found: Results, say: Say) -> str:
    a, b = _sides(found)
    options = found.head["options"]
    title = say("# Comparison", "# 对比测试")
    other = say("[简体中文](COMPARISON_TEST.zh-CN.md)", "[English](COMPARISON_TEST.md)")
    said = say(
        f"A is `{a}`, B is `{b}`. {options['rounds']} pairs, {options['round']:g} s a side, {options['users']} users (plain "
        "answers and streams), every side with a gateway of its own. Written by this command:",
        f"A 为 `{a}`，B 为 `{b}`。{options['rounds']} 对，每边 {options['round']:g} 秒，{options['users']} 个用户"
        "（一次性回答和流式），每边使用自己的网关。由此命令写出：",
    )
    command = f"```console\n.venv/bin/python -m loadtest --compare {a} {b}\n```"
    parts = [
        title,
        other,
        said,
        command,
        shared.engine_of(found, say),
        f"## {say('In short', '摘要')}",
        "\n".join(f"* {line}" for line in in_short(found, say)),
        _table(found, say),
        f"![{say('differences with their intervals', '差异及其区间')}](img/loadtest-comparison.svg)",
        _method(found, say),
        _counts(found, say),
        shared.machine(found, say),
    ]
    return "\n\n".join(parts) + "\n"


def _table(found: Results, say: Say) -> str:
    head = say(
        "figure|A|B|difference|95 % together: from|to|clear", "指标|A|B|差异|共同 95 %：自|至|明确"
    ).split("|")
    rows = [
        [
            say(*row.name),
            number(row.a, 2),
            number(row.b, 2),
            *(f"{value:+.1f} %" for value in (row.percent.value, row.percent.low, row.percent.high)),
            say("yes", "是") if row.percent.clear else say("no", "否"),
        ]
        for row in differences(found)
    ]
    return f"## {say('Differences', '差异')}\n\n{table(head, rows)}"


def _counts(found: Results, say: Say) -> str:
    """One row for each gateway, and every comparison that does not hold."""
    about = say(
        "Clients, Locust, gateway and engines, exactly, for the gateway of every side; [LOADTEST.md](LOADTEST.md#counts) "
        "says what is compared.",
        "客户端、Locust、网关和引擎，逐个网关完全相等；比较的内容见 [LOADTEST.md](LOADTEST.zh-CN.md#计数)。",
    )
    head = say("gateway|requests|comparisons|agree", "网关|请求|比较|一致").split("|")
    rows = []
    for stand, part in zip(found.head["stands"], found.parts, strict=True):
        wrong = "; ".join(shared.check_name(check, say) for check in stand["checks"] if not check["ok"])
        agree = f"**{wrong}**" if wrong else say("yes", "是")
        rows.append([stand["name"], number(len(part.records)), number(len(stand["checks"])), agree])
    return f"## {say('Counts', '计数')}\n\n{about}\n\n{table(head, rows)}"


def _method(found: Results, say: Say) -> str:
    return say(
        "Sides come in the order A B, B A, A B, …, so that what else the machine does meets both. Requests of one run are "
        "no independent witnesses, so each pair gives one difference; shown are their median and two of them between which "
        "the true one lies, whatever their distribution (order statistics, the sign test turned round), so far apart "
        "that all intervals together hold with 95 % (Bonferroni).",
        "两边按 A B、B A、A B……交替，使机器上的其他负载对两边相同。同一次运行中的请求不是独立的证据，因此每对只给出一个差异；"
        "表中是各对差异的中位数，以及真值所在的两个次序值之间的区间，与分布无关（次序统计量，即符号检验的反演），并加宽到使全部区间"
        "同时成立的概率为 95 %（Bonferroni）。",
    )
