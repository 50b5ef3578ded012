"""Who measures a device: NVML for graphics cards, the engines' supervisors for main memory, or nobody."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ByteSize

from gateway.config import DeviceSpec, Registry
from gateway.memory import MemoryReader, Reading
from gateway.settings import SettingsError

log = logging.getLogger(__name__)

Sizes = Callable[[], Awaitable[Mapping[str, int]]]
"""Bytes that each running engine of ours takes, by model id. An engine that cannot be asked is left out."""

_BACKOFF_INITIAL_S: Final = 1.0
_BACKOFF_MAX_S: Final = 60.0


def reader_for(device: DeviceSpec, sizes: Sizes) -> MemoryReader | None:
    """The reader that a device asks for; None when its declared figures are to be trusted."""
    makers: Mapping[str, Callable[[], MemoryReader | None]] = {
        "nvml": lambda: NvmlReader(device.index),
        "process": lambda: ProcessReader(int(device.memory or 0), sizes),
        "none": lambda: None,
    }
    return makers[device.reader]()


async def with_card_sizes(registry: Registry) -> Registry:
    """The registry with the size of each card that is to be had whole. Raises SettingsError when the driver
    does not tell it."""
    devices = [await _sized(device) for device in registry.devices]
    return registry.model_copy(update={"devices": tuple(devices)})


async def _sized(device: DeviceSpec) -> DeviceSpec:
    if device.memory is not None:
        return device
    reading = await NvmlReader(device.index).read()
    if reading is None:
        raise SettingsError(
            f"The memory of device {device.id} is not declared, and the driver does not tell that of card "
            f"{device.index}. Declare it in the registry (memory: 12GiB), or see `python -m gateway doctor`."
        )
    return device.model_copy(update={"memory": ByteSize(reading.total_bytes)})


class Outage:
    """Says once that something cannot be measured, again when the reason changes, and once when it can."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._reason: str | None = None

    def began(self, reason: str) -> None:
        if reason != self._reason:
            log.warning("%s cannot be measured: %s", self._what, reason)
        self._reason = reason

    def ended(self) -> None:
        if self._reason is not None:
            log.info("%s can be measured again", self._what)
        self._reason = None


class NvmlReader:
    """Memory of one NVIDIA card, through the driver's management library (nvidia-ml-py, imported when read).

    Version 1 of the memory figures: what the driver keeps for itself counts as used, so that total minus used
    is what can be had, and every driver has it. Version 2 leaves that part out of the used.
    After an error the library is closed and opened again, later each time: containers lose it when the
    host reloads its control groups, and a card may come back. The library counts its users, so that with
    several readers it is really closed once all of them have lost it, which is when that helps.
    """

    def __init__(
        self, index: int, *, timeout_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._index = index
        self._timeout_s = timeout_s
        self._clock = clock
        self._nvml: Any = None  # the open library
        self._outage = Outage(f"memory of card {index}")
        self._backoff_s = _BACKOFF_INITIAL_S
        self._retry_at = 0.0
        self._asking: asyncio.Task[Reading | None] | None = None

    async def read(self) -> Reading | None:
        """The card's memory; None after ``timeout_s`` without an answer. A hanging driver keeps one thread,
        and who reads meanwhile waits for the same answer."""
        if self._asking is None:
            self._asking = asyncio.create_task(asyncio.to_thread(self._read))
        asking = self._asking
        done, _ = await asyncio.wait({asking}, timeout=self._timeout_s)
        if not done:
            self._outage.began("the driver does not answer")
            return None
        if self._asking is asking:
            self._asking = None
        return asking.result()

    def _read(self) -> Reading | None:
        if self._clock() < self._retry_at:
            return None
        try:
            pynvml = importlib.import_module("pynvml")
        except ImportError:
            self._failed("nvidia-ml-py is not installed: pip install 'unified-llm-gateway[gpu]'")
            return None
        return self._ask(pynvml)

    def _ask(self, pynvml: Any) -> Reading | None:
        try:
            if self._nvml is None:
                pynvml.nvmlInit()
                self._nvml = pynvml
            card = pynvml.nvmlDeviceGetHandleByIndex(self._index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(card)
        except pynvml.NVMLError as error:
            self._failed(_reason(pynvml, error))
            return None
        self._backoff_s = _BACKOFF_INITIAL_S
        self._outage.ended()
        return Reading(int(memory.total), int(memory.used))

    def _failed(self, reason: str) -> None:
        self._outage.began(reason)
        self._close()
        self._retry_at = self._clock() + self._backoff_s
        self._backoff_s = min(self._backoff_s * 2, _BACKOFF_MAX_S)

    def _close(self) -> None:
        nvml, self._nvml = self._nvml, None
        if nvml is None:
            return
        try:
            nvml.nvmlShutdown()
        except nvml.NVMLError as error:
            log.debug("card %d: closing the library: %s", self._index, error)


def _reason(pynvml: Any, error: Exception) -> str:
    """What an error of the library means here."""
    known = {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "there is no NVIDIA driver here (libnvidia-ml.so.1 is missing)",
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
        pynvml.NVML_ERROR_NOT_SUPPORTED: "this card does not tell its memory",
        pynvml.NVML_ERROR_INVALID_ARGUMENT: "there is no card of this number",
        pynvml.NVML_ERROR_NO_PERMISSION: "the driver does not allow it",
        pynvml.NVML_ERROR_GPU_IS_LOST: "the card has dropped off the bus",
        pynvml.NVML_ERROR_UNINITIALIZED: "the library was closed under us",
        pynvml.NVML_ERROR_UNKNOWN: "the driver cannot say what is wrong (a container may have lost the card)",
    }
    code = getattr(error, "value", None)
    return known.get(code, str(error)) if isinstance(code, int) else str(error)


class ProcessReader:
    """Main memory as a device: the budget is its size, the engines' own figures are its use.

    What the machine cannot give any more counts as used by others: with 1 GB left nobody starts
    a model of 2 GB, whatever the budget says.
    """

    def __init__(
        self,
        capacity_bytes: int,
        sizes: Sizes,
        available: Callable[[], int | None] | None = None,
    ) -> None:
        self._capacity_bytes = capacity_bytes
        self._sizes = sizes
        self._available = available or available_bytes

    async def read(self) -> Reading | None:
        sizes = dict(await self._sizes())
        used = sum(sizes.values())
        available = self._available()
        if available is not None:
            used = max(used, self._capacity_bytes - available)
        return Reading(self._capacity_bytes, used, sizes)


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Memory that the machine can still give without swapping; None where that cannot be told."""
    try:
        psutil = importlib.import_module("psutil")
    except ImportError:
        return _available_in(meminfo)
    return int(psutil.virtual_memory().available)


def _available_in(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
