"""Who holds the device, what switching costs, and whether the memory adds up."""

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
from monitoring.grafana.queries import added, coded, gauge, percentile, rate, select, target

# Value in the timeline, name and colour of each state of a model. In the order of a model's life.
STATES: tuple[tuple[str, int, Text, str], ...] = (
    ("stopped", 1, Text("stopped", "已停止"), GREY),
    ("starting", 2, Text("starting", "启动中"), BLUE),
    ("ready", 3, Text("ready", "就绪"), GREEN),
    ("draining", 4, Text("draining", "排空中"), YELLOW),
    ("stopping", 5, Text("stopping", "停止中"), ORANGE),
    ("failed", 6, Text("failed", "失败"), RED),
)

_STATE = (
    Figure(
        Text("State of each model", "各模型状态"),
        Text(
            "A healthy switch reads draining, stopping, then starting and ready on the other line; red needs you",
            "正常切换为：一行排空、停止，另一行启动、就绪；红色需要处理",
        ),
        "states",
        "short",
        (coded("model_state", "state", [(name, code) for name, code, _, _ in STATES], ("model",)),),
        width=24,
        names={code: (text, colour) for _, code, text, colour in STATES},
    ),
    Figure(
        Text("Ready, share of the time", "就绪时间占比"),
        Text(
            "Residency: how much of the time shown each model could answer at once",
            "驻留率：所示时间内可立即应答的比例",
        ),
        "gauges",
        "percent",
        (
            target(
                select('100 * mean("value")', "model_state", ("model",), where="\"state\" = 'ready'"),
                "$tag_model",
            ),
        ),
        width=8,
        maximum=100,
        levels=levels(BLUE),
    ),
    Figure(
        Text("Switches", "切换次数"),
        Text(
            "Models that came in, in each step; many in a row is thrashing",
            "每步换入的模型数；连续过多即为抖动",
        ),
        "bars",
        "short",
        (added("switches", ("model",)),),
        width=8,
    ),
    Figure(
        Text("Starts of engines", "引擎启动"),
        Text("By outcome; a failed start is red", "按结果；失败为红色"),
        "bars",
        "short",
        (added("starts", ("model", "outcome"), "$tag_model $tag_outcome"),),
        width=8,
        colours={"(failed|error|timeout)$": RED},
    ),
)

_COST = (
    Figure(
        Text("Time lost to switching", "切换损失时间"),
        Text(
            "Seconds in each step in which the device served nobody because models changed places",
            "每步内因换模型而无法服务的秒数",
        ),
        "bars",
        "s",
        (added("switch_lost_seconds", ("model",)),),
        width=8,
    ),
    Figure(
        Text("Worst wait for a turn", "最长排队"),
        Text(
            "The longest that any request waited; above max_wait (30 s unless set) fairness is at its limit",
            "请求等待的最长时间；超过 max_wait（默认 30 秒）说明已到公平性上限",
        ),
        "lines",
        "ms",
        (percentile("queue", "upper", ("model",)),),
        width=8,
        levels=levels("transparent", (30_000, RED)),
    ),
    Figure(
        Text("Wait for a load", "等待加载"),
        Text(
            "What requests waited for their model to come in: longest and P50",
            "请求等待模型换入的时间：最长与 P50",
        ),
        "lines",
        "ms",
        (
            percentile("load", "upper", ("model",), Text("longest $tag_model", "最长 $tag_model")),
            percentile("load", "50_percentile", ("model",), "P50 $tag_model"),
        ),
        width=8,
    ),
    Figure(
        Text("Start of an engine", "引擎启动时间"),
        Text(
            "From the start of the process to ready; rises when weights come from a cold disk",
            "从进程启动到就绪；冷盘读取权重时上升",
        ),
        "bars",
        "ms",
        (percentile("start", "upper", ("model",)),),
        width=8,
    ),
    Figure(
        Text("Restarts of engines", "引擎重启"),
        Text("Engines that ended by themselves and were started again", "自行退出后被重新启动的引擎"),
        "bars",
        "short",
        (added("engine_restarts", ("model",)),),
        width=8,
        tint=RED,
    ),
    Figure(
        Text("Waiting by model", "各模型排队"),
        Text(
            "Requests that wait; a model that is not in and has many waiting is about to be switched in",
            "等待的请求；未驻留且排队多的模型即将换入",
        ),
        "lines",
        "short",
        (gauge("queued", ("model",), how="max"),),
        width=8,
    ),
)

_MEMORY = (
    Figure(
        Text("Memory: models against the device", "显存：模型与设备"),
        Text(
            "Stacked: what the ledger says that models hold. Lines: what the device has and what it says is used; the gap is not ours",
            "堆叠：账本记录的各模型占用；线：设备容量与设备报告的用量；差额非网关所用",
        ),
        "stack",
        "bytes",
        (
            gauge("model_memory_bytes", ("model",)),
            gauge(
                "device_memory_bytes",
                ("device", "kind"),
                Text("device $tag_device $tag_kind", "设备 $tag_device $tag_kind"),
                by_model=False,
            ),
        ),
        width=16,
        height=9,
        colours={"total$": RED, "declared$": YELLOW, "used$": ORANGE, "free$": GREEN},
    ),
    Figure(
        Text("Requests by model", "请求（按模型）"),
        Text("Beside the memory: who was asked for", "与显存对照：被请求的模型"),
        "lines",
        "reqps",
        (rate("requests", ("model",)),),
        width=8,
        height=9,
    ),
)

BOARD = Board(
    "models",
    Text("Gateway: models and switching", "网关：模型与切换"),
    Text(
        "Who holds the device, what switching costs, and whether the memory adds up",
        "谁占用设备、切换代价、显存账目",
    ),
    (
        Section(Text("Who is in", "驻留"), _STATE),
        Section(Text("What switching costs", "切换代价"), _COST),
        Section(Text("Memory", "显存"), _MEMORY),
    ),
)
