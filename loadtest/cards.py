"""NVIDIA cards through NVML, where there are any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import pynvml
except ImportError:  # the extra `gpu` is not installed
    pynvml = None


class Cards:
    """Reads utilisation, memory, power and temperature of every card. Without cards it reads nothing."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        if pynvml is None:
            return
        try:
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        except pynvml.NVMLError:
            self._handles = []

    def read(self) -> list[dict[str, float]]:
        return [row for handle in self._handles if (row := _read(handle))]

    def names(self) -> list[str]:
        found = []
        for handle in self._handles:
            name = pynvml.nvmlDeviceGetName(handle)
            found.append(name.decode() if isinstance(name, bytes) else str(name))
        return found

    def close(self) -> None:
        if self._handles:
            pynvml.nvmlShutdown()
            self._handles = []


def _read(handle: Any) -> dict[str, float]:
    """Without what this card cannot say."""
    row: dict[str, float] = {}
    readings: dict[str, Callable[[], Any]] = {
        "utilisation_percent": lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        "used": lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used,
        "watts": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "celsius": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
    }
    for name, reading in readings.items():
        try:
            row[name] = float(reading())
        except pynvml.NVMLError:
            continue
    return row
