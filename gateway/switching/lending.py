"""Slots that are lent: taken ahead for requests that come later, in another process. Pure.

A lent slot counts as one that runs a request, so nothing is let in beyond ``max_concurrent`` and nobody stops
a model under it. What it is used for is told later, and only then gets into the history.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.switching.books import Device, Model, Request
from gateway.switching.vocabulary import State

MOST_AT_ONCE: Final = 50
"""So many equal values move a mean as far as it goes."""


class Lending:
    """Of one scheduler. Times are seconds on its clock."""

    def __init__(
        self, models: Mapping[str, Model], devices: Mapping[str, Device], requests: dict[int, Request]
    ) -> None:
        self._models = models
        self._devices = devices
        self._requests = requests

    def spare(self, model: str) -> int | None:
        """How many slots of a model are free; None where some are wanted: the model is not in, or somebody
        waits for it, or for room on its device."""
        record = self._models[model]
        if record.state is not State.READY or _wanted(self._devices[record.policy.device]):
            return None
        return record.slots - len(record.running)

    def full(self, model: str) -> bool:
        """Whether a request that comes now would not be let in at once."""
        return not self._models[model].can_admit()

    def on_the_same_device(self, model: str) -> list[str]:
        """All models that share its device, itself among them."""
        device = self._devices[self._models[model].policy.device]
        return [one.policy.id for one in device.models]

    @property
    def calm(self) -> bool:
        """Whether nobody waits for anything."""
        return not any(_wanted(device) for device in self._devices.values())

    def take(self, number: int, model: str, now: float) -> bool:
        """Lend a slot, known as ``number`` from now on. False, and nothing has changed, without one."""
        record = self._models[model]
        if not record.can_admit():
            return False
        # It was granted to nobody: its own time is not that of a request.
        self._requests[number] = record.running[number] = Request(number, record, now, now, None, 0)
        return True

    def hand_on(self, number: int, since: float) -> None:
        """A request that runs in a lent slot since then keeps it as its own."""
        if (request := self._requests.get(number)) is not None:
            request.granted_at = since

    def unused(self, model: str, count: int) -> None:
        """So many of its lent slots run nothing at the moment."""
        self._models[model].unused = count

    def worked(self, model: str, begun: int, ended: int, mean_s: float, now: float) -> None:
        """What its lent slots did since the last time: requests came, and others ended after ``mean_s``."""
        history = self._models[model].history
        if begun:
            history.arrived_together(begun, now)
        for _ in range(min(ended, MOST_AT_ONCE)):
            history.service.add(mean_s)


def _wanted(device: Device) -> bool:
    return any(model.waiting or model.wanted_since is not None for model in device.models)
