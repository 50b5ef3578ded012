"""Where more load brings no more answers, and what twice of that does."""

from __future__ import annotations

from loadtest import knee
from loadtest.knee import Step
from loadtest.report.words import NOTHING, Say, number, seconds, share, table
from loadtest.results import PartData, Results

WITHIN = 0.05
"""Throughput at twice the load is to stay within this of the peak."""
LONGER = 1.25
"""Admitted requests keep their latency when their P99 is at most so many times that of the knee."""


def there(found: Results) -> bool:
    return all(found.part(name) is not None for name in ("ramp", "knee", "twice"))


def _part(found: Results, name: str) -> PartData:
    part = found.part(name)
    if part is None:
        raise KeyError(name)
    return part


def _steps(found: Results) -> list[Step]:
    ramp, options = _part(found, "ramp"), found.head["options"]
    return knee.steps(ramp.records, ramp.began, options["step"], options["step_users"])


def held(part: PartData) -> Step:
    """A part with the same load all along, after it has settled."""
    return knee.held(part.records, part.began, part.ended, part.raw["users"])


def in_short(found: Results, say: Say) -> list[str]:
    at, twice = held(_part(found, "knee")), held(_part(found, "twice"))
    return [_throughput(at, twice, say), _latency(at, twice, say), *_retry_after(found, say)]


def _throughput(at: Step, twice: Step, say: Say) -> str:
    change = twice.answered / at.answered - 1 if at.answered else 0.0
    kept = change >= -WITHIN
    verdict = say("within 5 %" if kept else "**not within 5 %**", "在 5 % 以内" if kept else "**超出 5 %**")
    return say(
        f"Saturation at {at.users} sources ({at.offered:.1f} new requests a second): {at.answered:.1f} answers a second. "
        f"With twice as many ({twice.offered:.1f} a second): {twice.answered:.1f}, {change:+.1%}, {verdict}.",
        f"{at.users} 个来源（每秒 {at.offered:.1f} 个新请求）时饱和：每秒 {at.answered:.1f} 个回答。加倍后（每秒 "
        f"{twice.offered:.1f} 个）：{twice.answered:.1f} 个，{change:+.1%}，{verdict}。",
    )


def _latency(at: Step, twice: Step, say: Say) -> str:
    before, after = at.latency.p99, twice.latency.p99
    if before is None or after is None:
        return say("There were no answers to compare.", "没有可比较的回答。")
    kept = after <= LONGER * before
    verdict = say(
        f"kept (at most {LONGER:g} times)" if kept else f"**not kept (more than {LONGER:g} times)**",
        f"保持（至多 {LONGER:g} 倍）" if kept else f"**没有保持（超过 {LONGER:g} 倍）**",
    )
    return say(
        f"Latency of who was admitted at twice the load: P50 {seconds(twice.latency.p50)} s, P99 {seconds(after)} s; at "
        f"the knee {seconds(at.latency.p50)} s and {seconds(before)} s: {verdict}.",
        f"加倍负载下被接纳者的延迟：P50 {seconds(twice.latency.p50)} 秒，P99 {seconds(after)} 秒；拐点处为 "
        f"{seconds(at.latency.p50)} 秒和 {seconds(before)} 秒：{verdict}。",
    )


def _retry_after(found: Results, say: Say) -> list[str]:
    told = knee.refusals(_part(found, "twice").records)
    if not told.first:
        return [say("Nobody was refused at twice the load.", "加倍负载下无人被拒。")]
    all_told = told.told == told.with_retry_after
    how = say(
        f"all of {number(told.told)} refusals had Retry-After"
        if all_told
        else f"**{number(told.told - told.with_retry_after)} of {number(told.told)} refusals had no Retry-After**",
        f"全部 {number(told.told)} 次拒绝都带有 Retry-After"
        if all_told
        else f"**{number(told.told)} 次拒绝中有 {number(told.told - told.with_retry_after)} 次没有 Retry-After**",
    )
    return [
        say(
            f"{number(told.first)} requests were refused at their first try; {how} ({number(told.retry_after.p50)} s in "
            f"the middle, {number(told.retry_after.most)} s at most). {number(told.kept)} came back at that time, and "
            f"{share(told.second, told.kept)} of them got in (the time of the others had not come when the run ended); {number(told.third)} more at their third try; {number(told.never)} "
            "were refused three times.",
            f"首次请求中有 {number(told.first)} 个被拒；{how}（中位 {number(told.retry_after.p50)} 秒，最长 "
            f"{number(told.retry_after.most)} 秒）。按时回来的有 {number(told.kept)} 个，其中 {share(told.second, told.kept)} "
            f"被接纳（其余的到运行结束时尚未到时间）；第三次又有 {number(told.third)} 个；{number(told.never)} 个三次都被拒。",
        )
    ]


def section(found: Results, say: Say) -> str:
    title = say("Saturation, and twice that", "饱和与加倍")
    queue, pace = found.head["options"]["max_queue"], knee.PACE_S
    about = say(
        f"A gateway of its own, one model, `limits.max_queue: {queue}`. Every source begins a request each {pace:g} s, "
        f"as long as answers take less; who is refused comes back after Retry-After, at most twice, while new ones go on arriving. The ramp adds sources "
        "until three steps bring no more answers; the knee is the least load that brings 97 % of the most. Refused "
        "requests count in no latency.",
        f"单独的网关，一个模型，`limits.max_queue: {queue}`。每个来源每 {pace:g} 秒发起一个请求，只要回答用时更短；被拒者按 "
        "Retry-After 回来，至多两次。斜坡逐级增加来源，直到连续三级不再带来更多回答；拐点是达到最大值 97 % 的最小负载。"
        "被拒的请求不计入延迟。",
    )
    head = say(
        "part|sources|offered/s|answered/s|refused/s|P50 s|P95 s|P99 s|first token inside P99 s",
        "部分|来源|发起/s|回答/s|被拒/s|P50 s|P95 s|P99 s|内部首 token P99 s",
    ).split("|")
    rows = [_row(say("ramp", "斜坡"), step) for step in _steps(found)]
    rows.append(_row(say("**knee, held**", "**拐点，保持**"), held(_part(found, "knee"))))
    rows.append(_row(say("**twice that**", "**加倍**"), held(_part(found, "twice"))))
    picture = say("answers and latency over the offered load", "随发起负载：回答与延迟")
    return f"## {title}\n\n{about}\n\n{table(head, rows)}\n\n![{picture}](img/loadtest-saturation.svg)"


def _row(name: str, step: Step) -> list[str]:
    rates = [f"{rate:.1f}" for rate in (step.offered, step.answered, step.refused)]
    times = (step.latency.p50, step.latency.p95, step.latency.p99, step.first_token.p99)
    return [name, f"{step.users}" if step.users else NOTHING, *rates, *map(seconds, times)]
