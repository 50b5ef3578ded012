"""What switching costs: time in which a device had one model going and the next one not yet there.

It begins when the first of those that make room stops taking work, and ends when the newcomer is ready, or
its start has failed. No second of a device counts twice, however many switches overlap. Pure: it is told
of changes and adds to the figures.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.metrics import Metrics
from gateway.scheduler import Changed, State

AT_ONCE_S: Final = 1.0
"""Who had others make room starts as the last of them is gone. Who starts later came for another reason."""


@dataclass(slots=True)
class _Switch:
    begun: float
    leaving: set[str] = field(default_factory=set)
    room_since: float | None = None


class SwitchCosts:
    def __init__(self, metrics: Metrics, devices: Mapping[str, Hashable]) -> None:
        """``devices``: the device of each model."""
        self._metrics = metrics
        self._devices = devices
        self._switches: dict[str, _Switch] = {}
        self._counted_until: dict[Hashable, float] = {}

    def changed(self, change: Changed, now: float) -> None:
        model, state = change.model, change.state
        if change.makes_room_for is not None and state in (State.DRAINING, State.STOPPING):
            switch = self._switches.setdefault(change.makes_room_for, _Switch(now))
            switch.leaving.add(model)
        elif state in (State.READY, State.STOPPED, State.FAILED):
            self._left(model, now, stays=state is State.READY)
        if state is State.STARTING:
            self._starts(model, now)
        elif state in (State.READY, State.STOPPED, State.FAILED):
            self._came(model, now, in_=state is State.READY)

    def _left(self, model: str, now: float, *, stays: bool) -> None:
        """It is gone, or need not go after all."""
        for newcomer, switch in tuple(self._switches.items()):
            if model not in switch.leaving:
                continue
            switch.leaving.discard(model)
            if not switch.leaving and stays:
                del self._switches[newcomer]
            elif not switch.leaving:
                switch.room_since = now

    def _starts(self, model: str, now: float) -> None:
        switch = self._switches.get(model)
        if switch is not None and (switch.room_since is None or now - switch.room_since > AT_ONCE_S):
            del self._switches[model]

    def _came(self, model: str, now: float, *, in_: bool) -> None:
        switch = self._switches.get(model)
        if switch is None or switch.room_since is None:
            return
        del self._switches[model]
        device = self._devices[model]
        begun = max(switch.begun, self._counted_until.get(device, 0.0))
        self._counted_until[device] = now
        self._metrics.count("gateway_switch_lost_seconds_total", now - begun, model=model)
        self._metrics.count("gateway_switches_total", int(in_), model=model)
