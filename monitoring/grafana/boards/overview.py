"""First look: is it answering, how fast, how much, and what goes wrong."""

from __future__ import annotations

from monitoring.grafana.board import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    YELLOW,
    Board,
    Figure,
    Section,
    Text,
    levels,
)
from monitoring.grafana.queries import (
    added,
    gauge,
    percentile,
    percentiles,
    rate,
    raw,
    share,
    total_of_gauge,
)

STATUS_COLOURS = {"^2": GREEN, "^3": BLUE, "^4": YELLOW, "^429": ORANGE, "^5": RED}
_FAILED = '"status" =~ /^5/'

_NOW = (
    Figure(
        Text("Requests/s", "每秒请求"),
        Text("Answered requests, the mean of the time shown", "已应答的请求，所选时间内的平均值"),
        "number",
        "reqps",
        (rate("requests", alias=Text("requests", "请求")),),
        width=3,
        height=4,
        levels=levels(BLUE),
        decimals=2,
    ),
    Figure(
        Text("Failed", "失败率"),
        Text("Share of answers with a 5xx status", "5xx 状态的应答所占比例"),
        "number",
        "percent",
        (share("requests", _FAILED, alias=Text("failed", "失败")),),
        width=3,
        height=4,
        levels=levels(GREEN, (0.5, YELLOW), (2, RED)),
        decimals=2,
    ),
    Figure(
        Text("P95, whole request", "P95 总时长"),
        Text(
            "Nineteen of twenty requests took less; the worst flush shown",
            "二十个请求中有十九个更快；取所示时间内最差值",
        ),
        "number",
        "ms",
        (percentile("total", "95_percentile", alias="P95"),),
        width=3,
        height=4,
        levels=levels(GREEN, (10_000, YELLOW), (60_000, RED)),
        reduce="max",
    ),
    Figure(
        Text("P95, first token", "P95 首 token"),
        Text(
            "From the prompt to the engine to the first token of the answer", "从提示词交给引擎到第一个 token"
        ),
        "number",
        "ms",
        (percentile("first_token", "95_percentile", alias="P95"),),
        width=3,
        height=4,
        levels=levels(GREEN, (2_000, YELLOW), (10_000, RED)),
        reduce="max",
    ),
    Figure(
        Text("Tokens out/s", "每秒输出 token"),
        Text(
            "Tokens that were sent to clients, the mean of the time shown",
            "发给客户端的 token，所选时间内的平均值",
        ),
        "number",
        "short",
        (rate("tokens_out", alias=Text("tokens", "token")),),
        width=3,
        height=4,
        levels=levels(BLUE),
        decimals=1,
    ),
    Figure(
        Text("In flight", "处理中"),
        Text("Requests inside engines now", "此刻在引擎内的请求"),
        "number",
        "short",
        (total_of_gauge("in_flight", ("model",), Text("in flight", "处理中")),),
        width=3,
        height=4,
        levels=levels(BLUE),
        reduce="lastNotNull",
        decimals=0,
    ),
    Figure(
        Text("Waiting", "排队中"),
        Text("Requests that wait for their turn or for their model now", "此刻等待轮次或等待模型的请求"),
        "number",
        "short",
        (total_of_gauge("queued", ("model",), Text("waiting", "排队中")),),
        width=3,
        height=4,
        levels=levels(GREEN, (10, YELLOW), (100, RED)),
        reduce="lastNotNull",
        decimals=0,
    ),
    Figure(
        Text("Models ready", "就绪的模型"),
        Text("Models that answer at once; none is an alarm", "可立即应答的模型数；为零即告警"),
        "number",
        "short",
        (total_of_gauge("model_state", ("model",), Text("ready", "就绪"), where="\"state\" = 'ready'"),),
        width=3,
        height=4,
        levels=levels(RED, (1, GREEN)),
        reduce="lastNotNull",
        decimals=0,
    ),
)

_TRAFFIC = (
    Figure(
        Text("Requests by status", "请求（按状态）"),
        Text(
            "What clients were told, per second: green is good, red is ours, yellow is theirs",
            "每秒应答的状态：绿色正常，红色为服务端错误，黄色为客户端错误",
        ),
        "bars",
        "reqps",
        (rate("requests", ("status",), "$tag_status"),),
        colours=STATUS_COLOURS,
    ),
    Figure(
        Text("Requests by model", "请求（按模型）"),
        Text("Which model answers, per second", "每秒由哪个模型应答"),
        "lines",
        "reqps",
        (rate("requests", ("model",)),),
    ),
    Figure(
        Text("Whole request: P50, P95, P99", "总时长：P50、P95、P99"),
        Text(
            "From arrival to the last byte, waiting included; the worst model of each step",
            "从到达到最后一个字节，含等待；每步取最差的模型",
        ),
        "lines",
        "ms",
        percentiles("total"),
        colours={"P50": GREEN, "P95": YELLOW, "P99": RED},
        levels=levels("transparent", (60_000, RED)),
    ),
    Figure(
        Text("First token by model: P95", "首 token（按模型）：P95"),
        Text(
            "How long the engine took to begin; rises when it is full or prompts are long",
            "引擎开始回答所需时间；繁忙或提示词较长时上升",
        ),
        "lines",
        "ms",
        (percentile("first_token", "95_percentile", ("model",)),),
    ),
    Figure(
        Text("Tokens per second", "每秒 token"),
        Text("Prompts in, answers out", "输入提示词与输出回答"),
        "lines",
        "short",
        (
            rate("tokens_in", alias=Text("in", "输入")),
            rate("tokens_out", ("model",), Text("out $tag_model", "输出 $tag_model")),
        ),
        colours={"^(in|输入)$": GREY},
    ),
    Figure(
        Text("In flight and waiting", "处理中与排队中"),
        Text(
            "Requests inside engines, and requests that wait; which model they wait for is on the next dashboard",
            "引擎内的请求与等待的请求；按模型的明细见下一仪表盘",
        ),
        "stack",
        "short",
        (
            total_of_gauge("in_flight", ("model",), Text("in flight", "处理中")),
            total_of_gauge("queued", ("model",), Text("waiting", "排队中")),
        ),
        colours={"^(in flight|处理中)": BLUE, "^(waiting|排队中)": ORANGE},
    ),
)

_WRONG = (
    Figure(
        Text("Errors of engines", "引擎错误"),
        Text("What engines did wrong, by kind", "引擎出错，按种类"),
        "bars",
        "short",
        (added("upstream_errors", ("model", "kind"), "$tag_model $tag_kind"),),
        width=8,
        height=7,
        tint=RED,
    ),
    Figure(
        Text("Refused", "拒绝"),
        Text(
            "Requests that were turned away before an engine saw them, and why",
            "在到达引擎之前被拒绝的请求及原因",
        ),
        "bars",
        "short",
        (added("rejected", ("why",), "$tag_why"),),
        width=8,
        height=7,
        tint=ORANGE,
    ),
    Figure(
        Text("Cancelled by clients", "客户端取消"),
        Text("Clients that left, and where their request was then", "客户端离开时请求所处的阶段"),
        "bars",
        "short",
        (added("cancelled", ("where",), "$tag_where"),),
        width=8,
        height=7,
    ),
    Figure(
        Text("Tried again", "重试"),
        Text("Requests that were sent to an engine a second time, and why", "再次发送给引擎的请求及原因"),
        "bars",
        "short",
        (added("retries", ("why",), "$tag_why"),),
        width=8,
        height=7,
        tint=YELLOW,
    ),
    Figure(
        Text("Event loop late by", "事件循环延迟"),
        Text(
            "How late the gateway's own clock ticks: above 100 ms something blocks it",
            "网关自身时钟的延迟：超过 100 毫秒说明有阻塞",
        ),
        "lines",
        "ms",
        (
            percentile("loop_lag", "99_percentile", ("host",), "P99 $tag_host", by_model=False),
            percentile(
                "loop_lag", "upper", ("host",), Text("worst $tag_host", "最差 $tag_host"), by_model=False
            ),
        ),
        width=8,
        height=7,
        levels=levels("transparent", (100, ORANGE)),
    ),
    Figure(
        Text("Open connections", "打开的连接"),
        Text("Clients connected to the gateway", "连接到网关的客户端"),
        "lines",
        "short",
        (gauge("open_connections", ("host",), "$tag_host", how="max", by_model=False),),
        width=8,
        height=7,
    ),
)

_PIPELINE = (
    Figure(
        Text("Figures lost", "丢失的指标"),
        Text(
            "By the gateway (Telegraf did not take them) and by Telegraf (InfluxDB did not); zero is normal",
            "网关丢失（Telegraf 未接收）与 Telegraf 丢失（InfluxDB 未接收）；正常为零",
        ),
        "bars",
        "short",
        (
            added("metrics_dropped", ("why",), Text("gateway: $tag_why", "网关：$tag_why"), by_model=False),
            raw("internal_write", 'spread("metrics_dropped")', ("host",), "Telegraf $tag_host", fill="0"),
            raw("internal_statsd", 'spread("udp_packets_dropped")', ("host",), "UDP $tag_host", fill="0"),
        ),
        height=6,
        tint=RED,
    ),
    Figure(
        Text("Telegraf's buffer", "Telegraf 缓冲"),
        Text(
            "Points that wait for InfluxDB; it grows when InfluxDB does not answer",
            "等待写入 InfluxDB 的数据点；InfluxDB 不应答时增长",
        ),
        "lines",
        "short",
        (raw("internal_write", 'max("buffer_size")', ("host",)),),
        width=6,
        height=6,
        colours={".*": GREY},
    ),
    Figure(
        Text("Host: processor and memory", "主机：处理器与内存"),
        Text("Of the machine that Telegraf runs on", "运行 Telegraf 的机器"),
        "lines",
        "percent",
        (
            raw("cpu", 'mean("usage_active")', ("host",), Text("processor $tag_host", "处理器 $tag_host")),
            raw("mem", 'mean("used_percent")', ("host",), Text("memory $tag_host", "内存 $tag_host")),
            raw(
                "disk", 'max("used_percent")', ("host",), Text("fullest disk $tag_host", "最满磁盘 $tag_host")
            ),
        ),
        width=6,
        height=6,
        maximum=100,
    ),
)

BOARD = Board(
    "overview",
    Text("Gateway: overview", "网关：总览"),
    Text("Is it answering, how fast, how much, and what goes wrong", "是否在应答、多快、多少、出了什么错"),
    (
        Section(Text("Now", "当前"), _NOW),
        Section(Text("Traffic", "流量"), _TRAFFIC),
        Section(Text("What goes wrong", "异常"), _WRONG),
        Section(Text("Under it: the host and this pipeline", "底层：主机与监控管道"), _PIPELINE),
    ),
)
