"""Sections that every page has: what agreed, what it was measured on, how to repeat it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.report.words import Say, number, table
from loadtest.results import Results

_WHAT: Mapping[str, tuple[str, str]] = {
    "requests": ("requests", "请求"),
    "failures": ("failures, refusals included", "失败（含被拒）"),
    "each_once": ("each request once in the gateway's log", "每个请求在网关日志中恰好一次"),
    "2xx": ("answered", "已回答"),
    "4xx": ("4xx", "4xx"),
    "5xx": ("5xx", "5xx"),
    "none": ("without an answer", "没有应答"),
    "left": ("left by the user, or cut off at the end", "用户离开，或结束时被切断"),
    "tokens": ("tokens out", "输出 token"),
    "engine_requests": ("requests inside the engine", "进入引擎的请求"),
    "engine_answers": ("whole answers of the engine", "引擎的完整回答"),
    "engine_tokens": ("tokens of whole answers", "完整回答的 token"),
}
_SIDES: Mapping[str, tuple[str, str]] = {
    "clients": ("clients", "客户端"),
    "locust": ("Locust", "Locust"),
    "gateway": ("gateway", "网关"),
    "engine": ("engine", "引擎"),
    "log": ("log lines", "日志行"),
    "never_sent": ("never sent", "未发出"),
    "answered_anyway": ("complete as their user left", "离开时恰已完成"),
    "read_before_leaving": ("read by those who left", "离开者已读"),
}


def agreement_sentence(found: Results, say: Say) -> str:
    checks = found.checks
    wrong = [check for check in checks if not check["ok"]]
    if not wrong:
        return say(
            f"Clients, Locust, gateway and engines counted the same: all of {len(checks)} comparisons hold "
            f"([Counts](#counts)).",
            f"客户端、Locust、网关和引擎的计数一致：{len(checks)} 项比较全部成立（见[计数](#计数)）。",
        )
    names = "; ".join(check_name(check, say) for check in wrong)
    return say(
        f"**The counts do not agree, so this run has failed:** {names} ([Counts](#counts)).",
        f"**计数不一致，本次运行失败：**{names}（见[计数](#计数)）。",
    )


def check_name(check: Mapping[str, Any], say: Say) -> str:
    """A comparison in words, with its counts."""
    name = say(*_WHAT[check["what"]])
    sides = ", ".join(f"{say(*_SIDES[side])} {number(value)}" for side, value in check["sides"].items())
    return f"{check['about']} {name}: {sides}".strip()


def counts(found: Results, say: Say) -> str:
    """Every comparison of every stand."""
    text = say(
        "Exact, or the run has failed. A user who leaves may do so while the last token is under way: then the "
        "answer is complete for gateway or engine, and left for the user. How often that was is in the last column.",
        "必须完全相等，否则运行失败。用户离开时，最后一个 token 可能正在路上：对网关或引擎来说回答已完成，"
        "对用户来说则是离开。这种情况的次数见最后一列。",
    )
    head = say("what|model, route|counts|agrees", "内容|模型与路由|计数|一致").split("|")
    parts = [f"## {say('Counts', '计数')}", text]
    for stand in found.head["stands"]:
        rows = [_row(check, say) for check in stand["checks"]]
        if len(found.head["stands"]) > 1:
            parts.append(say(f"Gateway of *{stand['name']}*:", f"*{stand['name']}* 的网关："))
        parts.append(table(head, rows, left=4))
    return "\n\n".join(parts)


def _row(check: Mapping[str, Any], say: Say) -> Sequence[str]:
    sides = " · ".join(f"{say(*_SIDES[side])} {number(value)}" for side, value in check["sides"].items())
    return (
        say(*_WHAT[check["what"]]),
        check["about"] or say("all", "全部"),
        sides,
        say("yes", "是") if check["ok"] else say("**no**", "**否**"),
    )


def machine(found: Results, say: Say) -> str:
    about = found.head["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    load = ", ".join(f"{value:.1f}" for value in about["load"])
    after = ", ".join(f"{value:.1f}" for value in found.head["load_at_the_end"])
    cards = ", ".join(about["gpus"]) or say("no GPU", "无 GPU")
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(found.head["began"]))
    memory = about["memory_bytes"] / 2**30
    lines = (
        say(
            f"{about['processor']}, {about['cores']} cores, {memory:.0f} GiB, {cards}, {about['system']}",
            f"{about['processor']}，{about['cores']} 核，{memory:.0f} GiB，{cards}，{about['system']}",
        ),
        f"Python {about['python']}; {packages}",
        say(f"commit {about['commit']}, {day}", f"提交 {about['commit']}，{day}"),
        say(
            f"load average (1, 5, 15 minutes) before: {load}; after: {after}. Gateway, engines and Locust share "
            "this machine, and whatever else ran on it.",
            f"平均负载（1、5、15 分钟）运行前：{load}；运行后：{after}。网关、引擎、Locust 以及机器上的其他程序共用这台机器。",
        ),
    )
    return f"## {say('Measured on', '测量环境')}\n\n" + "\n".join(f"* {line}" for line in lines)


FULL = 85.0
"""Per cent of the machine's processors from which on what runs on it waits for them."""


def crowded(found: Results, say: Say) -> str:
    """Whether the machine had processors to spare: of it, not of what was tested, are the times otherwise."""
    shares = []
    for part in found.parts:
        busy = [row["machine"]["cpu_percent"] for row in part.samples]
        if busy:
            shares.append((sum(busy) / len(busy), part.name))
    if not shares:
        return say("How busy the machine was is not known.", "机器的繁忙程度未知。")
    mean = sum(share for share, _ in shares) / len(shares)
    most, name = max(shares)
    if most < FULL:
        return say(
            f"The machine's processors were busy for {mean:.0f} % of the time (at most {most:.0f} %, in *{name}*): they "
            "were not the limit.",
            f"机器的处理器平均 {mean:.0f} % 繁忙（最高 {most:.0f} %，在 *{name}*）：它们不是瓶颈。",
        )
    return say(
        f"**The machine was full:** its processors were busy for {mean:.0f} % of the time ({most:.0f} % in *{name}*), so "
        "engines, gateway and clients waited for them and for each other. Times are longer and rates lower than on a "
        "machine with room; counts, shares and slopes are not touched by that.",
        f"**机器已满载：**处理器平均 {mean:.0f} % 繁忙（*{name}* 中 {most:.0f} %），引擎、网关和客户端都在等处理器、也在互相等待。"
        "时间比有余量的机器上更长，速率更低；计数、占比和斜率不受影响。",
    )


def engine_of(found: Results, say: Say) -> str:
    """What answered, in a sentence."""
    options = found.head["options"]
    if options["url"]:
        return say("A gateway that somebody else runs.", "由他人运行的网关。")
    if options["engine"] == "small":
        return say(
            "The engines are real: llama.cpp with the two small models of `models/local.yaml` on the processor.",
            "引擎是真实的：llama.cpp 在处理器上运行 `models/local.yaml` 的两个小模型。",
        )
    scale = options["speed_scale"]
    faster = "" if scale == 1 else say(f" They ran {scale:g} times as fast.", f" 运行速度为其 {scale:g} 倍。")
    return say(
        "**The engines are stand-ins.** The echo engine keeps the time of Qwen2-7B and Llama-3.1-8B in 4 bits, as "
        "published figures have it for a 12 GB card ([CALIBRATION.md](CALIBRATION.md) has each source and how far it "
        "can be trusted); there was no such card. Everything else is real: supervisors, processes, sockets, the "
        "switch from one model to the other on a device where one fits." + faster,
        "**引擎是替身。**回声引擎按公开数据模拟 4 位量化的 Qwen2-7B 和 Llama-3.1-8B 在 12 GB 显卡上的耗时"
        "（每个数字的来源和可信程度见 [CALIBRATION.md](CALIBRATION.zh-CN.md)），没有真实显卡。其余都是真实的："
        "监管进程、引擎进程、套接字，以及在只容得下一个模型的设备上的切换。" + faster,
    )
