"""The cards, as the sidecar reads them, and what a token costs in energy."""

from __future__ import annotations

from monitoring.grafana.board import GREEN, ORANGE, RED, Board, Figure, Section, Target, Text, levels
from monitoring.grafana.queries import added
from monitoring.grafana.queries import gauge as any_gauge

GPU = '"gpu" =~ /^${gpu:regex}$/'


def gauge(
    name: str, by: tuple[str, ...] = ("gpu",), alias: str | Text = "GPU $tag_gpu", *, how: str = "last"
) -> Target:
    return any_gauge(name, by, alias, where=GPU, how=how, by_model=False)


_NOW = (
    Figure(
        Text("Cards that answer", "可读取的显卡"),
        Text(
            "1 while the card can be read, 0 when it is lost or its driver is gone",
            "可读取为 1；丢失或驱动异常为 0",
        ),
        "states",
        "short",
        (gauge("gpu_up"),),
        width=24,
        height=4,
        names={0: (Text("lost", "丢失"), RED), 1: (Text("up", "正常"), GREEN)},
    ),
    Figure(
        Text("Utilisation", "利用率"),
        Text("Share of the time in which the card computed", "显卡计算时间占比"),
        "lines",
        "percent",
        (gauge("gpu_utilisation_percent", how="mean"),),
        width=8,
        maximum=100,
    ),
    Figure(
        Text("Memory", "显存"),
        Text("In use, and what the card has", "已用与总量"),
        "lines",
        "bytes",
        (
            gauge("gpu_memory_used_bytes", alias=Text("GPU $tag_gpu used", "GPU $tag_gpu 已用"), how="max"),
            gauge("gpu_memory_total_bytes", alias=Text("GPU $tag_gpu total", "GPU $tag_gpu 总量")),
        ),
        width=8,
        colours={"(total|总量)$": RED},
    ),
    Figure(
        Text("Temperature", "温度"),
        Text("Of the chip; above 83 °C most cards slow down", "芯片温度；超过 83 °C 多数显卡降频"),
        "lines",
        "celsius",
        (gauge("gpu_temperature_celsius", how="max"),),
        width=8,
        minimum=None,
        levels=levels("transparent", (83, ORANGE), (90, RED)),
    ),
    Figure(
        Text("Power", "功率"),
        Text("What the card draws", "显卡功耗"),
        "lines",
        "watt",
        (gauge("gpu_power_watts", how="mean"),),
        width=8,
    ),
    Figure(
        Text("Held back by", "降频原因"),
        Text(
            "Reasons that hold the clocks back; idle is no trouble, heat and power are",
            "限制频率的原因；空闲无妨，过热与功率需留意",
        ),
        "bars",
        "short",
        (
            any_gauge(
                "gpu_throttle",
                ("gpu", "reason"),
                "GPU $tag_gpu $tag_reason",
                where=f'{GPU} AND "value" > 0',
                how="max",
                by_model=False,
            ),
        ),
        width=8,
        colours={"idle": "#808080", "thermal": RED, "power": ORANGE},
    ),
    Figure(
        Text("Clocks", "频率"),
        Text(
            "Of the chip and of its memory; they fall when the card is idle, hot or short of power",
            "芯片与显存频率；空闲、过热或供电不足时下降",
        ),
        "lines",
        "rotmhz",
        (gauge("gpu_clock_mhz", ("gpu", "clock"), "GPU $tag_gpu $tag_clock", how="mean"),),
        width=8,
    ),
)

_ENERGY = (
    Figure(
        Text("Energy per token", "每 token 能耗"),
        Text(
            "Energy of all cards over tokens that came out, per step; idle time is in it",
            "所有显卡能耗除以输出 token，含空闲",
        ),
        "lines",
        "joule",
        (any_gauge("joules_per_token", ("share",), "$tag_share", by_model=False),),
        width=6,
    ),
    Figure(
        Text("Energy by card", "显卡能耗"),
        Text("Joules in each step", "每步的焦耳数"),
        "bars",
        "joule",
        (added("gpu_energy_joules", ("gpu",), "GPU $tag_gpu", where=GPU, by_model=False),),
        width=6,
    ),
    Figure(
        Text("Energy of a switch", "单次切换能耗"),
        Text("What the latest switch to each model took", "最近一次切换到各模型的能耗"),
        "lines",
        "joule",
        (any_gauge("joules_per_switch", ("model",), by_model=False),),
        width=6,
    ),
    Figure(
        Text("Price of a million tokens", "百万 token 电费"),
        Text("Energy at the price that the sidecar was given", "按给定电价计算"),
        "lines",
        "short",
        (
            any_gauge(
                "cost_per_million_tokens", ("share", "currency"), "$tag_currency $tag_share", by_model=False
            ),
        ),
        width=6,
    ),
)


_INSIDE = (
    Figure(
        Text("Memory by process", "进程显存"),
        Text(
            "Who holds the card; a name that you do not know is your missing memory",
            "谁占用显卡；陌生进程即缺失的显存",
        ),
        "stack",
        "bytes",
        (gauge("gpu_process_memory_bytes", ("gpu", "process"), "GPU $tag_gpu $tag_process"),),
        width=12,
    ),
    Figure(
        Text("PCIe traffic", "PCIe 流量"),
        Text("To and from the host; high while weights load", "与主机间的传输；加载权重时较高"),
        "lines",
        "Bps",
        (
            gauge(
                "gpu_pcie_bytes_per_second", ("gpu", "direction"), "GPU $tag_gpu $tag_direction", how="mean"
            ),
        ),
        width=6,
    ),
    Figure(
        Text("Fan", "风扇"),
        Text("Share of its highest speed; cards of servers have none", "相对最高转速；服务器卡无风扇"),
        "lines",
        "percent",
        (gauge("gpu_fan_percent"),),
        width=6,
        maximum=100,
    ),
)

BOARD = Board(
    "gpu",
    Text("Gateway: GPU", "网关：GPU"),
    Text(
        "The cards: load, memory, heat, power, and energy per token",
        "显卡：负载、显存、温度、功耗与每 token 能耗",
    ),
    (
        Section(Text("The cards now", "显卡现状"), _NOW),
        Section(Text("Energy", "能耗"), _ENERGY),
        Section(Text("Inside", "细节"), _INSIDE),
    ),
    variables=("gpu", "host", "interval"),
)
