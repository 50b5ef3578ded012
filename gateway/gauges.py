"""Figures that are looked at rather than counted: read from their owners just before they go out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.config import Registry
from gateway.device import DeviceMemory
from gateway.metrics import Metrics
from gateway.model_manager import ModelManager
from gateway.scheduler import State

GONE = (State.STOPPED, State.FAILED)


def models(metrics: Metrics, manager: ModelManager, registry: Registry) -> Callable[[], None]:
    """State, requests and memory of every model. The result sets the gauges."""
    names = [spec.id for spec in registry.models]

    def sample() -> None:
        for name in names:
            view = manager.view(name)
            for state in State:
                metrics.gauge("gateway_model_state", view.state is state, model=name, state=state.value)
            metrics.gauge("gateway_in_flight", view.in_flight, model=name)
            metrics.gauge("gateway_queued", view.waiting, model=name)
            holds = 0 if view.state in GONE else view.footprint_bytes
            metrics.gauge("gateway_model_memory_bytes", holds, model=name)

    return sample


def devices(metrics: Metrics, memory: Mapping[str, DeviceMemory]) -> Callable[[], None]:
    """What each device has: as declared, and as measured where somebody measures."""

    def sample() -> None:
        for device, its in memory.items():
            figures = {"declared": its.capacity_bytes}
            if (reading := its.reading) is not None:
                figures["total"], figures["used"] = reading.total_bytes, reading.used_bytes
                figures["free"] = reading.free_bytes
            for kind, size in figures.items():
                metrics.gauge("gateway_device_memory_bytes", size, device=device, kind=kind)

    return sample
