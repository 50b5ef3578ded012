"""A load test from both ends: what the clients counted beside what the gateway counted."""

from __future__ import annotations

from monitoring.grafana.board import BLUE, ORANGE, RED, Board, Figure, Section, Text
from monitoring.grafana.queries import added, gauge, percentile, rate, total_of_gauge

_BOTH = (
    Figure(
        Text("Users", "并发用户"),
        Text("Simulated users at work", "模拟用户数"),
        "lines",
        "short",
        (gauge("locust_users", (), Text("users", "用户"), how="max", by_model=False),),
        width=6,
    ),
    Figure(
        Text("Requests per second", "每秒请求"),
        Text(
            "Counted by the clients and by the gateway; the lines lie on each other when nothing is lost",
            "客户端与网关分别计数；无丢失时两线重合",
        ),
        "lines",
        "reqps",
        (
            rate("locust_requests", (), Text("clients", "客户端"), by_model=False),
            rate("requests", (), Text("gateway", "网关"), by_model=False),
        ),
        width=9,
        colours={"(clients|客户端)": BLUE, "(gateway|网关)": ORANGE},
    ),
    Figure(
        Text("Failures", "失败"),
        Text(
            "What clients saw fail, and the gateway's own 5xx; a gap is between the two: network or client",
            "客户端所见失败与网关 5xx；差额在网络或客户端",
        ),
        "bars",
        "short",
        (
            added(
                "locust_failures", ("name",), Text("clients $tag_name", "客户端 $tag_name"), by_model=False
            ),
            added("requests", (), Text("gateway 5xx", "网关 5xx"), where='"status" =~ /^5/', by_model=False),
        ),
        width=9,
        colours={"5xx": RED},
    ),
    Figure(
        Text("Whole request: clients and gateway", "总时长：客户端与网关"),
        Text(
            "P50 and P95 from both ends; the difference is network and connection",
            "两端的 P50 与 P95；差值为网络与连接",
        ),
        "lines",
        "ms",
        (
            percentile(
                "locust_response_time", "50_percentile", (), Text("P50 clients", "P50 客户端"), by_model=False
            ),
            percentile(
                "locust_response_time", "95_percentile", (), Text("P95 clients", "P95 客户端"), by_model=False
            ),
            percentile("total", "50_percentile", (), Text("P50 gateway", "P50 网关"), by_model=False),
            percentile("total", "95_percentile", (), Text("P95 gateway", "P95 网关"), by_model=False),
        ),
    ),
    Figure(
        Text("First token: clients and gateway", "首 token：客户端与网关"),
        Text(
            "P95 from both ends; the clients' has waiting and loading in it, the gateway's begins at the engine",
            "两端的 P95；客户端含排队与加载，网关从引擎开始计",
        ),
        "lines",
        "ms",
        (
            percentile(
                "locust_first_token", "95_percentile", (), Text("P95 clients", "P95 客户端"), by_model=False
            ),
            percentile("first_token", "95_percentile", (), Text("P95 gateway", "P95 网关"), by_model=False),
        ),
    ),
    Figure(
        Text("By kind of request: P95", "按请求类型：P95"),
        Text("Each kind that the test sends, as clients saw it", "测试中各类请求，客户端所见"),
        "lines",
        "ms",
        (percentile("locust_response_time", "95_percentile", ("name",), "$tag_name", by_model=False),),
    ),
    Figure(
        Text("What the gateway did meanwhile", "同时网关状态"),
        Text("Requests inside engines, and requests that wait", "引擎内的请求与等待的请求"),
        "stack",
        "short",
        (
            total_of_gauge("in_flight", ("model",), Text("in flight", "处理中"), by_model=False),
            total_of_gauge("queued", ("model",), Text("waiting", "排队中"), by_model=False),
        ),
        colours={"^(in flight|处理中)": BLUE, "^(waiting|排队中)": ORANGE},
    ),
)

BOARD = Board(
    "load",
    Text("Gateway: load test", "网关：压力测试"),
    Text("What clients counted beside what the gateway counted", "客户端计数与网关计数对照"),
    (Section(Text("Both ends", "两端"), _BOTH),),
    variables=("host", "interval"),
    since="now-30m",
    refresh="5s",
)
