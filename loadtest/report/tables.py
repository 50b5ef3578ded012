"""The tables of the page of a run."""

from __future__ import annotations

from loadtest.report import figures
from loadtest.report.words import NOTHING, Say, ms, number, seconds, size, table
from loadtest.results import PartData, Results
from loadtest.stats import Spread

PARTS = ("queue_ms", "load_ms", "prefill_ms", "decode_ms", "gateway_ms")


def kinds(part: PartData, say: Say) -> str:
    head = say(
        "kind|model|requests|ok|left|errors|P50 s|P95 s|P99 s|own P50 s|own P99 s|first token P50 s|P99 s"
        "|gap P50 ms|P99 ms|tokens/s P50",
        "类型|模型|请求|完成|离开|错误|P50 s|P95 s|P99 s|净时 P50 s|净时 P99 s|首 token P50 s|P99 s"
        "|间隔 P50 ms|P99 ms|tokens/s P50",
    ).split("|")
    rows = [_kind(row) for row in figures.rows(part.records)]
    return table(head, rows, left=2)


def _kind(row: figures.Row) -> list[str]:
    bad = row.outcomes["failed"] + row.outcomes["refused"]
    gone = row.outcomes["left"] + row.outcomes["cut"]
    counts = [row.kind, row.model, *map(number, (row.requests, row.outcomes["ok"], gone, bad))]
    times = (row.total.p50, row.total.p95, row.total.p99, row.own.p50, row.own.p99)
    first = (row.first_token.p50, row.first_token.p99)
    gaps = (row.gaps.p50, row.gaps.p99)
    return [
        *counts,
        *map(seconds, times),
        *map(seconds, first),
        *map(ms, gaps),
        number(row.tokens_per_s.p50, 1),
    ]


def times(found: Results, part: PartData, say: Say) -> str:
    """What the receipts say."""
    about = say(
        "From the receipt of every answer (`x-gateway-…-ms`), in milliseconds. *gateway* is what the gateway itself "
        "added; *outside* is what clients waited beyond the receipt: connections, sockets, and the client. The engine's "
        "part of a request is prefill and decode.",
        "来自每个回答的收据（`x-gateway-…-ms`），单位毫秒。*网关*是网关本身增加的时间；*之外*是客户端在收据之外等待的时间："
        "连接、套接字和客户端自身。预填充和解码是引擎的部分。",
    )
    head = say(
        "model|answers|queue P50|P99|load P50|P99|prefill P50|P99|decode P50|P99|gateway P50|P99|outside P50|P99",
        "模型|回答|排队 P50|P99|加载 P50|P99|预填充 P50|P99|解码 P50|P99|网关 P50|P99|之外 P50|P99",
    ).split("|")
    rows = []
    for model in figures.models(part.records):
        done = [one for one in part.records if one.model == model and one.outcome == "ok"]
        spreads = [*(figures.receipt_part(done, name) for name in PARTS), figures.outside(done)]
        rows.append([model, number(len(done)), *(text for one in spreads for text in _two(one))])
    title = say("Where the time went", "时间花在哪里")
    return "\n\n".join(one for one in (f"## {title}", about, table(head, rows), _between(found, say)) if one)


def _between(found: Results, say: Say) -> str:
    """The same from outside, without the gateway's word for it: two means over the very same answers."""
    stand = found.head["stands"][0]
    answers = sum(count for count, _ in stand["engine_s"].values())
    done = [
        one
        for part in found.parts
        if part.stand == stand["name"]
        for one in part.records
        if one.outcome == "ok"
    ]
    if not done or answers != len(done):
        return ""
    engines = 1000 * sum(total for _, total in stand["engine_s"].values()) / answers
    clients = sum(map(figures.own_ms, done)) / len(done)
    return say(
        f"From outside, over all {number(len(done))} answers of this gateway: engines say that an answer took "
        f"{number(engines)} ms on average, clients (without waiting for turn and load) {number(clients)} ms. The "
        f"{number(clients - engines, 1)} ms between are gateway, both connections and client together, streams' "
        "writing included.",
        f"从外部看，这个网关的全部 {number(len(done))} 个回答：引擎说平均每个回答 {number(engines)} 毫秒，客户端（不含排队和"
        f"加载）为 {number(clients)} 毫秒。其间的 {number(clients - engines, 1)} 毫秒是网关、两侧连接和客户端的总和。",
    )


def _two(one: Spread) -> tuple[str, str]:
    return ms(one.p50), ms(one.p99)


def switches(found: Results, part: PartData, say: Say) -> str:
    stand = found.head["stands"][0]
    about = say(
        "Who waited for a switch: answers whose model had to be brought in while they waited. *came in* and *seconds "
        "lost* (nobody is served) are of this whole gateway, the parts with one model included.",
        "谁在等切换：等待期间模型才被换入的回答。*换入次数*和*损失秒数*（无人被服务）是整个网关的，含单模型部分。",
    )
    head = say(
        "model|came in|seconds lost|answers|waited|share|wait P50 s|P95 s|longest s",
        "模型|换入次数|损失秒数|回答|等待|占比|等待 P50 s|P95 s|最长 s",
    ).split("|")
    rows = []
    for one in figures.waits(part.records):
        share = NOTHING if not one.answered else f"{100 * one.waited / one.answered:.0f} %"
        rows.append(
            [
                one.model,
                number(stand["switches"].get(one.model, 0)),
                number(stand["lost_s"].get(one.model, 0)),
                number(one.answered),
                number(one.waited),
                share,
                *map(seconds, (one.waits.p50, one.waits.p95, one.waits.most)),
            ]
        )
    return f"## {say('Switches', '切换')}\n\n{about}\n\n{table(head, rows)}"


def programs(found: Results, part: PartData, say: Say) -> str:
    head = say(
        "program|cores, mean|µs of processor per request|memory first MiB|last|most|descriptors, most|sockets, most",
        "程序|平均核数|每请求处理器微秒|内存起始 MiB|结束|最高|描述符最多|套接字最多",
    ).split("|")
    names = {"gateway": say("gateway", "网关"), "engines": say("engines", "引擎"), "locust": "Locust"}
    rows = []
    for program, name in names.items():
        used = figures.usage(part.samples, program)
        if used is None:
            rows.append([name, *[NOTHING] * 7])
            continue
        each = 1e6 * used.cpu_s / max(1, len(part.records))
        memory = map(size, (used.rss_first, used.rss_last, used.rss_most))
        handles = map(number, (used.fds_most, used.sockets_most))
        rows.append([name, f"{used.cores:.2f}", number(each), *memory, *handles])
    picture = say("processor, memory and descriptors over the seconds", "随时间：处理器、内存、描述符")
    cards = found.head["machine"]["gpus"]
    text = (
        say("The card is in the plot.", "显卡见图。")
        if cards
        else say("There was no NVIDIA card to look at.", "没有可观察的 NVIDIA 显卡。")
    )
    missed = part.raw.get("missed", 0)
    looks = say(
        f"{len(part.samples)} samples, {missed} missed. {text}",
        f"采样 {len(part.samples)} 次，缺失 {missed} 次。{text}",
    )
    title = say("What the programs took", "程序的开销")
    return f"## {title}\n\n{looks}\n\n{table(head, rows)}\n\n![{picture}](img/loadtest-programs.svg)"
