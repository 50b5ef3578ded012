"""What the engines do: speed of each, and the figures that they give about themselves."""

from __future__ import annotations

from monitoring.grafana.board import GREEN, RED, YELLOW, Board, Figure, Section, Text
from monitoring.grafana.queries import added, gauge, mean, percentile, percentiles, rate

_SPEED = (
    Figure(
        Text("First token: P50, P95, P99", "首 token：P50、P95、P99"),
        Text(
            "From the prompt to the engine to its first token; the worst model chosen",
            "从提示词到首个 token；取所选最差模型",
        ),
        "lines",
        "ms",
        percentiles("first_token"),
        colours={"P50": GREEN, "P95": YELLOW, "P99": RED},
    ),
    Figure(
        Text("Between tokens: P50, P95, P99", "token 间隔：P50、P95、P99"),
        Text(
            "What a reader of a stream feels; above 100 ms it stutters", "流式阅读的感受；超过 100 毫秒即卡顿"
        ),
        "lines",
        "ms",
        percentiles("between_tokens"),
        colours={"P50": GREEN, "P95": YELLOW, "P99": RED},
    ),
    Figure(
        Text("First token, mean by model", "首 token 平均（按模型）"),
        Text("True means: sum over count", "真实平均：总和除以数量"),
        "lines",
        "ms",
        (mean("first_token", ("model",)),),
        width=8,
    ),
    Figure(
        Text("Between tokens, mean by model", "token 间隔平均（按模型）"),
        Text("Falls behind when the batch is large", "批次变大时变慢"),
        "lines",
        "ms",
        (mean("between_tokens", ("model",)),),
        width=8,
    ),
    Figure(
        Text("Tokens per second of one request", "单请求每秒 token"),
        Text("The median answer; it falls when the batch is large", "应答的中位数；批次变大时下降"),
        "lines",
        "short",
        (percentile("tokens_per_second", "50_percentile", ("model",)),),
        width=8,
    ),
)

_LOAD = (
    Figure(
        Text("Queue inside the engine", "引擎内部队列"),
        Text(
            "What the engine says about itself: requests that it has and does not work on yet",
            "引擎自报：已接收但未处理的请求",
        ),
        "lines",
        "short",
        (gauge("engine_queue", ("model",), how="max"),),
        width=8,
    ),
    Figure(
        Text("Batch inside the engine", "引擎批大小"),
        Text(
            "What the engine says about itself: requests that it works on together",
            "引擎自报：同时处理的请求",
        ),
        "lines",
        "short",
        (gauge("engine_batch", ("model",), how="max"),),
        width=8,
    ),
    Figure(
        Text("In flight by model", "处理中（按模型）"),
        Text("What the gateway has given to each engine", "网关交给各引擎的请求"),
        "lines",
        "short",
        (gauge("in_flight", ("model",), how="max"),),
        width=8,
    ),
    Figure(
        Text("Length of prompts", "提示词长度"),
        Text("Tokens per prompt, longest and P50", "每个提示词的 token 数，最长与 P50"),
        "lines",
        "short",
        (
            percentile("prompt_tokens", "upper", ("model",), Text("longest $tag_model", "最长 $tag_model")),
            percentile("prompt_tokens", "50_percentile", ("model",), "P50 $tag_model"),
        ),
        width=8,
    ),
    Figure(
        Text("Tokens out by model", "输出 token（按模型）"),
        Text("Per second, over all requests", "每秒，所有请求合计"),
        "lines",
        "short",
        (rate("tokens_out", ("model",)),),
        width=8,
    ),
    Figure(
        Text("Replicas", "副本"),
        Text(
            "Engines of each model by state; one that is ejected gets no requests until it answers again",
            "各模型的引擎按状态；被摘除的副本在恢复应答前不接收请求",
        ),
        "lines",
        "short",
        (gauge("replicas", ("model", "state"), "$tag_model $tag_state", where='"value" > 0'),),
        colours={"ready$": GREEN, "draining$": YELLOW, "(ejected|down)$": RED},
        width=8,
    ),
    Figure(
        Text("Errors and restarts", "错误与重启"),
        Text("What engines did wrong, and how often they had to be started again", "引擎出错与重启次数"),
        "bars",
        "short",
        (
            added("upstream_errors", ("model", "kind"), "$tag_model $tag_kind"),
            added("engine_restarts", ("model",), Text("restart $tag_model", "重启 $tag_model")),
        ),
        width=24,
        tint=RED,
    ),
)

BOARD = Board(
    "engines",
    Text("Gateway: engines", "网关：引擎"),
    Text("How fast each engine is and how full", "各引擎的速度与负载"),
    (
        Section(Text("Speed", "速度"), _SPEED),
        Section(Text("Load", "负载"), _LOAD),
    ),
)
