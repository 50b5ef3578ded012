"""docs/PERFORMANCE_TEST.md: the run with all users, each model alone, and saturation when it was asked for."""

from __future__ import annotations

from pathlib import Path

from loadtest.report import figures, plots, saturation_section, seed_section, shared, tables
from loadtest.report.words import Say, ms, number, seconds, share, span
from loadtest.results import PartData, Results

NAME = "PERFORMANCE_TEST"
CLIENT_LIMIT = 0.8
"""Cores of one Locust process from which on it, and not what it tests, is what is slow."""


def draw(found: Results, folder: Path) -> list[Path]:
    part = _main(found)
    plots.over_time(part, folder / "loadtest-time.svg")
    plots.distributions(part, folder / "loadtest-distributions.svg")
    plots.programs(part, folder / "loadtest-programs.svg")
    drawn = [folder / f"loadtest-{name}.svg" for name in ("time", "distributions", "programs")]
    if saturation_section.there(found):
        plots.saturation(found, folder / "loadtest-saturation.svg")
        drawn.append(folder / "loadtest-saturation.svg")
    return drawn


def _main(found: Results) -> PartData:
    return found.parts[0]


def page(found: Results, say: Say) -> str:
    part = _main(found)
    parts = [
        _title(found, say),
        f"## {say('In short', '摘要')}\n\n" + "\n".join(f"* {line}" for line in in_short(found, say)),
        seed_section.section(found, say),
        _all_users(part, say),
        tables.times(found, part, say),
        tables.switches(found, part, say),
        saturation_section.section(found, say) if saturation_section.there(found) else "",
        tables.programs(found, part, say),
        shared.counts(found, say),
        _repeat(say),
        shared.machine(found, say),
    ]
    return "\n\n".join(one for one in parts if one) + "\n"


def _title(found: Results, say: Say) -> str:
    title = say("# Performance test", "# 性能测试")
    other = say("[简体中文](PERFORMANCE_TEST.zh-CN.md)", "[English](PERFORMANCE_TEST.md)")
    written = say(
        "Written by `python -m loadtest`; every figure and every sentence with one comes from the run itself. Times "
        "are as clients saw them unless it says otherwise.",
        "由 `python -m loadtest` 写出；所有数字和带数字的句子都来自运行本身。除非另有说明，时间都是客户端所见。",
    )
    return f"{title}\n\n{other}\n\n{written}\n\n{shared.engine_of(found, say)}"


def in_short(found: Results, say: Say) -> list[str]:
    part = _main(found)
    lines = [shared.agreement_sentence(found, say), _errors(part, say), _rate(found, part, say)]
    lines += [_waits(part, say), _gateway(part, say)]
    lines += [line for line in seed_section.in_short(found, say) if line]
    if saturation_section.there(found):
        lines += saturation_section.in_short(found, say)
    return [*lines, _client(found, part, say), shared.crowded(found, say)]


def _errors(part: PartData, say: Say) -> str:
    failed = sum(record.outcome == "failed" for record in part.records)
    refused = sum(record.outcome == "refused" for record in part.records)
    left = sum(record.outcome == "left" for record in part.records)
    cut = sum(record.outcome == "cut" for record in part.records)
    total = len(part.records)
    return say(
        f"{number(total)} requests of all kinds in {span(part.seconds)}: {number(failed)} errors, {number(refused)} "
        f"refused, {number(left)} left by their users on purpose, {number(cut)} cut off at the end.",
        f"{span(part.seconds)} 内各类请求 {number(total)} 个：错误 {number(failed)}，被拒 {number(refused)}，"
        f"用户主动离开 {number(left)}，结束时被切断 {number(cut)}。",
    )


def _rate(found: Results, part: PartData, say: Say) -> str:
    rates = figures.rates(part)
    users = found.head["options"]["users"]
    names = figures.models(part.records)
    who = say(" and ".join(names), "、".join(names))
    return say(
        f"{users} users, asking for {who}, got {rates.answers:.1f} answers and {number(rates.tokens)} tokens a second.",
        f"{users} 个用户使用 {who}，每秒得到 {rates.answers:.1f} 个回答、{number(rates.tokens)} 个 token。",
    )


def _waits(part: PartData, say: Say) -> str:
    waits = figures.waits(part.records)
    waited, answered = sum(one.waited for one in waits), sum(one.answered for one in waits)
    if not waited:
        return say("Nobody waited for a model to come in.", "没有请求等待模型加载。")
    middle = figures.quantile_of(_all_waits(part), 0.5)
    most = max(_all_waits(part))
    return say(
        f"{number(waited)} of {number(answered)} answers ({share(waited, answered)}) had to wait until their model was "
        f"in: half of these at least {seconds(middle)} s, the longest {seconds(most)} s.",
        f"{number(answered)} 个回答中有 {number(waited)} 个（{share(waited, answered)}）要等模型换入：其中一半至少等了 "
        f"{seconds(middle)} 秒，最长 {seconds(most)} 秒。",
    )


def _all_waits(part: PartData) -> list[float]:
    done = (record for record in part.records if record.outcome == "ok")
    return [figures.waited_ms(record) for record in done if figures.waited_for_load(record)]


def _gateway(part: PartData, say: Say) -> str:
    own = figures.receipt_part(part.records, "gateway_ms")
    return say(
        f"The gateway itself took {ms(own.p50)} ms of a request (P50) and {ms(own.p99)} ms (P99), by its own receipts.",
        f"按网关自己的收据，网关本身在每个请求中占 {ms(own.p50)} 毫秒（P50）和 {ms(own.p99)} 毫秒（P99）。",
    )


def _client(found: Results, part: PartData, say: Say) -> str:
    used = figures.usage(part.samples, "locust")
    if used is None:
        return say("Locust's own load was not seen.", "没有观察到 Locust 自身的负载。")
    limit = used.cores / found.head["options"].get("processes", 1) > CLIENT_LIMIT
    end = say(
        "**so the clients were a limit: their times are longer than what a client elsewhere would see.**"
        if limit
        else "so the clients were not the limit.",
        "**因此客户端是瓶颈之一：其时间比别处的客户端所见要长。**" if limit else "因此客户端不是瓶颈。",
    )
    return say(
        f"Locust used {used.cores:.2f} of a core on average, {end}",
        f"Locust 平均使用 {used.cores:.2f} 个核，{end}",
    )


def _all_users(part: PartData, say: Say) -> str:
    text = say(
        "*own* is the whole answer without waiting for a turn and a load: what it would have taken had the model been "
        "there. *first token* has both waits in it. Gaps are all times from one token to the next, as readers saw them.",
        "*净时*是去掉排队和加载等待后的完整回答时间，即模型已在时所需的时间。*首 token* 含这两种等待。"
        "*间隔*是读者所见的相邻 token 之间的时间。",
    )
    legend = say(
        "Plain: an answer in one piece. Stream: token by token. Chat: grows with every turn. Impatient: leaves early. "
        "Alternating: the same question to both models. OpenAI: its own client package, half streamed.",
        "plain：一次性回答；stream：逐 token；chat：每轮增长的对话；impatient：提前离开；"
        "alternating：同一问题问两个模型；openai：官方客户端包，一半流式。",
    )
    picture = say(
        "requests, latency, who is in, tokens over the seconds", "随时间：请求、延迟、在位模型、token"
    )
    shares = say("share of answers that took at most so long", "耗时不超过该值的回答占比")
    return "\n\n".join(
        [
            f"## {say('All users together', '全部用户')}",
            legend,
            tables.kinds(part, say),
            text,
            f"![{picture}](img/loadtest-time.svg)",
            f"![{shares}](img/loadtest-distributions.svg)",
        ]
    )


def _repeat(say: Say) -> str:
    about = say(
        "From a clone, on Linux with Python 3.11 or newer. The first line makes the environment; the second is this "
        "page; the rest is what else there is. `--help` has every option.",
        "在克隆的仓库中，Linux、Python 3.11 或更新。第一行建立环境；第二行写出本页；其余是别的用法。全部选项见 `--help`。",
    )
    commands = """```console
make setup-dev
make loadtest LOADTEST="--saturation"
.venv/bin/python -m loadtest --quick --docs .run
.venv/bin/python -m loadtest --soak 30m
.venv/bin/python -m loadtest --engine small
.venv/bin/python -m loadtest --url http://127.0.0.1:8000 --users 10 --no-alone
.venv/bin/python -m loadtest --compare GATEWAY_TRANSPORT=fast GATEWAY_TRANSPORT=httpx
.venv/bin/locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --web-host 127.0.0.1
.venv/bin/locust -f loadtest/saturation.py --host http://127.0.0.1:8000 --headless
```"""
    kept = say(
        "Every request is kept under `.run/loadtest/`, with what was sampled each second; `--render FOLDER` writes the "
        "page again from that.",
        "每个请求和每秒的采样都保存在 `.run/loadtest/` 下；`--render FOLDER` 由此重新写出本页。",
    )
    return f"## {say('Do it again', '重复测试')}\n\n{about}\n\n{commands}\n\n{kept}"
