"""Every figure that this program gives: name, unit and tags in one table, which the README repeats."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Kind = Literal["gauge", "counter"]

CARD_TAGS: Final = ("gpu", "uuid", "host")

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]")
_LONGEST_TAG: Final = 64


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table. ``gw.`` before the name on StatsD, ``gateway_`` on Prometheus."""

    name: str
    kind: Kind
    help: str
    tags: tuple[str, ...]


TABLE: Final = (
    Metric("gpu_up", "gauge", "1 while the card can be read, else 0", CARD_TAGS),
    Metric("gpu_utilisation_percent", "gauge", "time in which the card computed", CARD_TAGS),
    Metric("gpu_memory_used_bytes", "gauge", "memory in use, the driver's own included", CARD_TAGS),
    Metric("gpu_memory_free_bytes", "gauge", "memory that can still be had", CARD_TAGS),
    Metric("gpu_memory_total_bytes", "gauge", "memory of the card", CARD_TAGS),
    Metric("gpu_temperature_celsius", "gauge", "temperature of the chip", CARD_TAGS),
    Metric("gpu_power_watts", "gauge", "power that the card draws", CARD_TAGS),
    Metric("gpu_energy_joules", "counter", "energy used since this program started", (*CARD_TAGS, "source")),
    Metric("gpu_clock_mhz", "gauge", "clock of sm or mem", (*CARD_TAGS, "clock")),
    Metric("gpu_throttle", "gauge", "1 while the reason holds the clocks back", (*CARD_TAGS, "reason")),
    Metric("gpu_fan_percent", "gauge", "speed of the fan, of its highest", CARD_TAGS),
    Metric("gpu_pcie_bytes_per_second", "gauge", "traffic to and from the host", (*CARD_TAGS, "direction")),
    Metric("gpu_process_memory_bytes", "gauge", "memory by name of process", (*CARD_TAGS, "process")),
    Metric(
        "energy_window_joules", "gauge", "energy of the window by what the gateway did", ("host", "phase")
    ),
    Metric("joules_per_token", "gauge", "energy of the window per token that came out", ("host", "share")),
    Metric("joules_per_switch", "gauge", "energy of the latest switch to a model", ("host", "model")),
    Metric("energy_cost", "gauge", "price of the energy since this program started", ("host", "currency")),
    Metric("cost_per_million_tokens", "gauge", "price of joules_per_token", ("host", "currency", "share")),
)

BY_NAME: Final[Mapping[str, Metric]] = {metric.name: metric for metric in TABLE}


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure. A counter's value is its total since this program started."""

    name: str
    value: float
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def metric(self) -> Metric:
        return BY_NAME[self.name]

    @property
    def key(self) -> tuple[str, ...]:
        """What tells this series from all others."""
        return (self.name, *(self.tags[tag] for tag in self.metric.tags))


def tag_value(text: str) -> str:
    """``text`` as it may stand in a tag of either format: short, never empty, nothing to escape."""
    return _UNSAFE.sub("_", text)[:_LONGEST_TAG] or "unknown"


def number(value: float) -> str:
    """A figure without an exponent, to a millionth."""
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return "0" if text in ("", "-0") else text
