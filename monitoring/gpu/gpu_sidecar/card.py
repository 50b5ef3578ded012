"""One card's figures. What the driver does not tell about a card is left out, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from gpu_sidecar.series import tag_value

UNKNOWN_PROCESS: Final = "unknown"
OTHER_PROCESSES: Final = "other"
ENERGY_COUNTER: Final = "the driver's energy counter"
"""Not a series of its own: it begins when the driver was loaded. See ``energy.py``."""


@dataclass(frozen=True, slots=True)
class Value:
    """One figure in the unit of its name; ``tag`` for those that come in several."""

    name: str
    value: float
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """What one reading told of one card."""

    index: int
    uuid: str
    values: tuple[Value, ...]
    untold: tuple[str, ...]
    power_w: float | None
    energy_j: float | None


class CardGone(Exception):
    """The card, or the whole library, answers nothing any more. ``code`` is the library's."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def _utilisation(nvml: Any, handle: Any) -> Iterator[Value]:
    yield Value("gpu_utilisation_percent", nvml.nvmlDeviceGetUtilizationRates(handle).gpu)


def _memory(nvml: Any, handle: Any) -> Iterator[Value]:
    """Version 1 of these figures, like the gateway: what the driver keeps for itself counts as used."""
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    yield Value("gpu_memory_used_bytes", memory.used)
    yield Value("gpu_memory_free_bytes", memory.free)
    yield Value("gpu_memory_total_bytes", memory.total)


def _temperature(nvml: Any, handle: Any) -> Iterator[Value]:
    celsius = nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
    yield Value("gpu_temperature_celsius", celsius)


def _power(nvml: Any, handle: Any) -> Iterator[Value]:
    yield Value("gpu_power_watts", nvml.nvmlDeviceGetPowerUsage(handle) / 1000)  # milliwatts


def _sm_clock(nvml: Any, handle: Any) -> Iterator[Value]:
    yield Value("gpu_clock_mhz", nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM), "sm")


def _memory_clock(nvml: Any, handle: Any) -> Iterator[Value]:
    yield Value("gpu_clock_mhz", nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM), "mem")


REASONS: Final[Mapping[str, int]] = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
    "display_clock_setting": 0x100,
}
"""Bits of the library's mask."""


def _throttling(nvml: Any, handle: Any) -> Iterator[Value]:
    try:
        mask = nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    except nvml.NVMLError_FunctionNotFound:  # drivers before 535 have it under its old name alone
        mask = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    for reason, bit in REASONS.items():
        yield Value("gpu_throttle", int(bool(mask & bit)), reason)


def _fan(nvml: Any, handle: Any) -> Iterator[Value]:
    yield Value("gpu_fan_percent", nvml.nvmlDeviceGetFanSpeed(handle))


def _pcie(nvml: Any, handle: Any) -> Iterator[Value]:
    """Each of the two takes the driver 20 ms. It counts in thousands of bytes."""
    sent = nvml.nvmlDeviceGetPcieThroughput(handle, nvml.NVML_PCIE_UTIL_TX_BYTES)
    received = nvml.nvmlDeviceGetPcieThroughput(handle, nvml.NVML_PCIE_UTIL_RX_BYTES)
    yield Value("gpu_pcie_bytes_per_second", sent * 1000, "from_gpu")
    yield Value("gpu_pcie_bytes_per_second", received * 1000, "to_gpu")


def _energy(nvml: Any, handle: Any) -> Iterator[Value]:
    yield Value(ENERGY_COUNTER, nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000)  # millijoules


Quantity = Callable[[Any, Any], Iterator[Value]]

QUANTITIES: Final[Mapping[str, Quantity]] = {
    "memory": _memory,  # first: every card has it, so that an error of unknown kind here means a lost card
    "utilisation": _utilisation,
    "temperature": _temperature,
    "power": _power,
    "sm clock": _sm_clock,
    "memory clock": _memory_clock,
    "throttle reasons": _throttling,
    "fan": _fan,
    "PCIe throughput": _pcie,
    "energy": _energy,
}


class CardReader:
    """Reads cards through an open library."""

    def __init__(self, nvml: Any, processes: int) -> None:
        self._nvml = nvml
        self._processes = processes
        self._fatal = {
            nvml.NVML_ERROR_UNINITIALIZED,
            nvml.NVML_ERROR_DRIVER_NOT_LOADED,
            nvml.NVML_ERROR_GPU_IS_LOST,
            nvml.NVML_ERROR_RESET_REQUIRED,
            nvml.NVML_ERROR_OPERATING_SYSTEM,
            nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
            nvml.NVML_ERROR_GPU_NOT_FOUND,
        }

    def read(self, index: int) -> Card:
        """Blocks for the driver, some 50 ms. Raises CardGone."""
        handle, uuid = self._identity(index)
        told: list[Value] = []
        untold: list[str] = []
        for what, quantity in (*QUANTITIES.items(), ("processes", self._by_process)):
            try:
                told.extend(quantity(self._nvml, handle))
            except self._nvml.NVMLError as error:
                if self._is_fatal(what, error):
                    raise CardGone(error.value, reason_of(self._nvml, error)) from error
                untold.append(what)
        single = {value.name: float(value.value) for value in told if value.tag is None}
        energy, power = single.get(ENERGY_COUNTER), single.get("gpu_power_watts")
        values = tuple(value for value in told if value.name != ENERGY_COUNTER)
        return Card(index, uuid, values, tuple(untold), power, energy)

    def _identity(self, index: int) -> tuple[Any, str]:
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            return handle, tag_value(self._nvml.nvmlDeviceGetUUID(handle))
        except self._nvml.NVMLError as error:
            raise CardGone(error.value, reason_of(self._nvml, error)) from error

    def _is_fatal(self, what: str, error: Any) -> bool:
        unknown_at_all = what == "memory" and error.value == self._nvml.NVML_ERROR_UNKNOWN
        return unknown_at_all or error.value in self._fatal

    def _by_process(self, nvml: Any, handle: Any) -> Iterator[Value]:
        """Memory by name, the largest first. Who computes and draws is listed twice, and counts once."""
        sizes: dict[int, int] = {}
        running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        for process in [*running, *self._drawing(handle)]:
            if process.usedGpuMemory is not None:
                sizes[process.pid] = max(sizes.get(process.pid, 0), int(process.usedGpuMemory))
        by_name: dict[str, int] = {}
        for pid, size in sizes.items():
            name = self._name_of(pid)
            by_name[name] = by_name.get(name, 0) + size
        for name, size in bounded(by_name, self._processes).items():
            yield Value("gpu_process_memory_bytes", size, name)

    def _drawing(self, handle: Any) -> list[Any]:
        try:
            return list(self._nvml.nvmlDeviceGetGraphicsRunningProcesses(handle))
        except self._nvml.NVMLError as error:
            if error.value in self._fatal:
                raise
            return []

    def _name_of(self, pid: int) -> str:
        """The program's file name. A process of another container has none here."""
        try:
            path = str(self._nvml.nvmlSystemGetProcessName(pid))
        except (self._nvml.NVMLError, UnicodeDecodeError):
            return UNKNOWN_PROCESS
        words = path.split()
        return tag_value(PurePosixPath(words[0]).name) if words else UNKNOWN_PROCESS


def bounded(sizes: Mapping[str, int], most: int) -> dict[str, int]:
    """The ``most`` largest, and the rest under one name."""
    ranked = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    kept = dict(ranked[:most])
    if rest := sum(size for _, size in ranked[most:]):
        kept[OTHER_PROCESSES] = kept.get(OTHER_PROCESSES, 0) + rest
    return kept


def reason_of(nvml: Any, error: Any) -> str:
    """What an error of the library means here."""
    known = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "there is no NVIDIA driver here (libnvidia-ml.so.1 is missing)",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
        nvml.NVML_ERROR_NO_PERMISSION: "the driver does not allow it",
        nvml.NVML_ERROR_GPU_IS_LOST: "it has dropped off the bus",
        nvml.NVML_ERROR_RESET_REQUIRED: "it needs a reset",
        nvml.NVML_ERROR_UNINITIALIZED: "the library was closed under us",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the driver and its library are of different versions",
        nvml.NVML_ERROR_UNKNOWN: "the driver cannot say what is wrong (a container may have lost the card)",
    }
    return known.get(error.value, str(error))
