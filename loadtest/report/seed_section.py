"""The table of 100 users that was promised, beside what was measured, and what of it can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from loadtest.report import figures
from loadtest.report.words import NOTHING, Say, ms, seconds, table
from loadtest.results import PartData, Results
from loadtest.stats import with_interval

PROMISED_QPS: Final = 20.0
PROMISED_P99_S: Final[Mapping[str, float]] = {"qwen2": 4.2, "llama3": 3.9}


def alone(found: Results) -> Mapping[str, PartData]:
    """The parts in which one model was asked alone, by model."""
    prefix = "alone-"
    return {p.name.removeprefix(prefix): p for p in found.parts if p.name.startswith(prefix)}


def in_short(found: Results, say: Say) -> list[str]:
    lines = []
    for model, part in alone(found).items():
        row = figures.row_of("", model, part.records)
        rate = figures.rates(part).answers
        promised = PROMISED_P99_S.get(model)
        beside = "" if promised is None else say(f" (promised: {promised} s)", f"（承诺：{promised} 秒）")
        lines.append(
            say(
                f"{model} alone, without switches: {rate:.1f} answers a second, P99 {seconds(row.total.p99)} s{beside}.",
                f"仅 {model}、无切换时：每秒 {rate:.1f} 个回答，P99 {seconds(row.total.p99)} 秒{beside}。",
            )
        )
    return lines


def section(found: Results, say: Say) -> str:
    title = say("The promised table, and ours", "承诺的表与我们的表")
    head = say(
        "run|model|QPS|P50 s|P95 s|P99 s|P99 lies between (95 %)|errors|gateway P50 ms|P99 ms",
        "运行|模型|QPS|P50 s|P95 s|P99 s|P99 的区间（95 %）|错误|网关 P50 ms|P99 ms",
    ).split("|")
    rows = [
        [say("promised", "承诺"), model, f"{PROMISED_QPS:g}", NOTHING, NOTHING, f"{p99:g}", *[NOTHING] * 4]
        for model, p99 in PROMISED_P99_S.items()
    ]
    for model, part in alone(found).items():
        rows.append(_row(part, model, say("one model alone", "仅一个模型"), say))
    main = found.parts[0]
    rows += [_row(main, model, say("both mixed", "两个混合"), say) for model in figures.models(main.records)]
    return f"## {title}\n\n{table(head, rows, left=2)}\n\n{_comparable(found, say)}"


def _row(part: PartData, model: str, run: str, say: Say) -> list[str]:
    """Plain answers of one model: what the promised run asks for."""
    ours = [one for one in part.records if one.model == model and one.kind == "plain"]
    row = figures.row_of("plain", model, ours)
    start = part.began + min(figures.SETTLE_S, part.seconds / 4)
    done = [one for one in part.records if one.model == model and one.outcome == "ok"]
    rate = sum(start <= one.ended_at < part.ended for one in done) / (part.ended - start)
    p99 = with_interval((one.total_ms for one in ours if one.outcome == "ok"), 0.99)
    between = NOTHING
    if p99 is not None:
        low, high = (NOTHING if edge is None else seconds(edge) for edge in (p99.low, p99.high))
        between = f"{low} … {high}"
    own = figures.receipt_part(ours, "gateway_ms")
    bad = row.outcomes["failed"] + row.outcomes["refused"]
    times = map(seconds, (row.total.p50, row.total.p95, row.total.p99))
    return [run, model, f"{rate:.1f}", *times, between, f"{bad}", ms(own.p50), ms(own.p99)]


def _comparable(found: Results, say: Say) -> str:
    options = found.head["options"]
    done = [one for one in found.parts[0].records if one.outcome == "ok"]
    said = sum(one.tokens for one in done) / max(1, len(done))
    read = sum(one.prompt_tokens for one in done) / max(1, len(done))
    stand_in = options["engine"] == "calibrated" and not options["url"]
    lines = [
        say(
            f"**Comparable:** {options['users']} users, {options['wait_s']:g} s between a user's requests, scenarios drawn "
            "by weight, whole answers.",
            f"**可比：**{options['users']} 个用户，每个用户请求间隔 {options['wait_s']:g} 秒，按权重抽取场景，完整回答。",
        ),
        say(
            f"**Not comparable:** the promise does not say how long its prompts and answers are. Ours had {read:.0f} and "
            f"{said:.0f} tokens on average; the time of an answer is nearly proportional to the second, and while an engine "
            "reads a prompt it writes to nobody.",
            f"**不可比：**承诺没有说提示和回答有多长。我们的平均为 {read:.0f} 和 {said:.0f} 个 token；回答时间几乎与后者成正比，"
            "而引擎读取提示时不向任何人输出。",
        ),
        say(
            "**Not comparable:** the promise gives a P99 for each model and says nothing of switching. On a card that holds "
            "one of the two, requests for both mixed wait for switches: that is the row *both mixed*, and no setting "
            "removes it. The row *one model alone* is what the promise can be held against.",
            "**不可比：**承诺给出每个模型的 P99，却没有提切换。显卡只容得下一个模型时，混合请求必须等待切换，即*两个混合*"
            "一行，任何设置都无法消除。可与承诺对照的是*仅一个模型*一行。",
        ),
    ]
    if stand_in:
        lines.append(
            say(
                "**Not comparable:** the card. Our engines keep published time; they compute nothing.",
                "**不可比：**显卡。我们的引擎按公开数据计时，不做计算。",
            )
        )
    return "\n".join(f"* {line}" for line in lines)
