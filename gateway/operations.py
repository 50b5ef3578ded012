"""Bringing an engine in and sending it away: what takes long, with the memory measured around it."""

from __future__ import annotations

import logging
from typing import Protocol

from gateway.device import DeviceMemory
from gateway.errors import GatewayError
from gateway.metrics import Metrics
from gateway.scheduler import Died, Event, FootprintLearnt, Started, StartFailed, StopFailed, Stopped
from gateway.tickets import Entry, Progress

logger = logging.getLogger("gateway.models")

PROBE_S = 2.0


class Host(Protocol):
    """Who wants it done, and hears how it ended."""

    def now(self) -> float: ...
    def report(self, event: Event) -> None: ...
    def progressed(self, entry: Entry, progress: Progress) -> None: ...
    def resident_on(self, device: DeviceMemory, *, but: Entry | None = None) -> list[str]: ...


class Operations:
    """Each runs in a task that belongs to the model. Unless cancelled, it ends in exactly one outcome."""

    def __init__(self, host: Host, metrics: Metrics) -> None:
        self._host = host
        self._metrics = metrics

    async def start(self, entry: Entry) -> None:
        """Ends in Started, or StartFailed, or Died when something of it could not be ended again."""
        begun = self._host.now()
        try:
            footprint = await self._bring_in(entry)
        except Exception as error:  # whatever it was, who waits must be told, and the next try may come
            await self._failed(entry, _reason(error))
        else:
            self._metrics.count("gateway_starts_total", model=entry.id, outcome="ok")
            self._metrics.observe("gateway_start_seconds", self._host.now() - begun, model=entry.id)
            self._host.report(Started(entry.id, footprint))

    async def stop(self, entry: Entry, *, force: bool) -> None:
        """Ends in Stopped once its memory is back, or in StopFailed."""
        try:
            if entry.device is not None:
                entry.device.stopping(entry.id)
            await entry.control.stop(force=force)
            if entry.device is not None:
                await entry.device.gone(entry.id, self._host.resident_on(entry.device, but=entry))
        except Exception as error:  # the scheduler tries again after a pause; silence would block the device
            ended: Event = StopFailed(entry.id, _reason(error))
        else:
            ended = Stopped(entry.id)
        self._tell_footprint(entry)
        self._host.report(ended)

    async def _bring_in(self, entry: Entry) -> int | None:
        def say(progress: Progress) -> None:
            self._host.progressed(entry, progress)

        if entry.device is None:
            await entry.control.start(say)
            return None
        # An engine that runs already has its room: this start joins it.
        if await entry.control.condition(PROBE_S) == "ended":
            resident = self._host.resident_on(entry.device, but=entry)
            await entry.device.make_sure_of_room(entry.id, resident)
        await entry.control.start(say)
        return await entry.device.learn(entry.id)

    async def _failed(self, entry: Entry, reason: str) -> None:
        self._metrics.count("gateway_starts_total", model=entry.id, outcome="failed")
        if entry.device is not None:
            entry.device.failed(entry.id, reason)
        # What cannot be ended still holds memory: then it is stopped again and again.
        gone = await self._is_gone(entry)
        self._tell_footprint(entry)
        self._host.report(StartFailed(entry.id, reason) if gone else Died(entry.id, reason))

    async def _is_gone(self, entry: Entry) -> bool:
        try:
            await entry.control.stop(force=True)
        except Exception as error:  # as with a stop: silence would block the device
            logger.warning("%s: after a failed start: %s", entry.id, _reason(error))
            return False
        return True

    def _tell_footprint(self, entry: Entry) -> None:
        """What it needs next time can be less than what it held: some engines take all they find."""
        if entry.device is not None:
            self._host.report(FootprintLearnt(entry.id, entry.device.footprint(entry.id)))


def _reason(error: Exception) -> str:
    if isinstance(error, GatewayError):
        return f"{error.message} {error.hint}" if error.hint else error.message
    logger.error("unexpected", exc_info=error)
    return f"{type(error).__name__}: {error}"
