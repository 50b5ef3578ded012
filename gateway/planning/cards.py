"""Which cards a plan is for: those that are asked for, those of this machine, or those of the registry."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.config import Registry


@dataclass(frozen=True, slots=True)
class Card:
    """A card, and how we came to it."""

    total_bytes: int
    origin: str


def cards_for(asked: Sequence[int], registry: Registry) -> list[Card]:
    """Those asked for, else what the driver lists, else the registry's devices."""
    if asked:
        return [Card(size, "as asked") for size in asked]
    if found := installed():
        return found
    return [
        Card(int(device.memory), f"device {device.id} of the registry; no card was found here")
        for device in registry.devices
        if device.memory is not None
    ]


def installed() -> list[Card]:
    """The cards that NVIDIA's driver lists; none without driver or binding. Blocks for the driver."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(at) for at in range(nvml.nvmlDeviceGetCount())]
        sizes = [int(nvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles]
        return [Card(size, f"card {at}, found here") for at, size in enumerate(sizes)]
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()
