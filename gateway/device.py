"""One device's memory, as the model manager uses it: measured before and after whatever changes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from gateway.memory import Ledger, MemoryReader, Reading, wait_for_release, wait_for_room
from gateway.scheduler import FootprintLearnt, NeighbourUses

LOOK_EVERY_S = 5.0
WORTH_TELLING_BYTES = 64 * 2**20

Tell = Callable[[NeighbourUses | FootprintLearnt], None]
Resident = Callable[[], Collection[str]]


class DeviceMemory:
    """A ledger, who measures for it, and how long memory may take to come back."""

    def __init__(
        self,
        ledger: Ledger,
        models: Collection[str],
        reader: MemoryReader | None,
        release_timeout_s: float,
    ) -> None:
        self._ledger = ledger
        self._models = models
        self._reader = reader
        self._release_timeout_s = release_timeout_s
        self._told: dict[tuple[str, str], int] = {}
        self.reading: Reading | None = None
        """The last one that was taken to see what has changed."""

    @property
    def capacity_bytes(self) -> int:
        """How much models may take together."""
        return self._ledger.capacity_bytes

    async def make_sure_of_room(self, model: str, resident: Collection[str]) -> None:
        """Blocks until a start of ``model``, of which nothing runs, has its room.

        Raises MemoryNotFree, with figures. Until this has returned, ``failed`` and ``gone`` do nothing.
        """
        self._ledger.awaits_room(model)
        reading = await wait_for_room(self._ledger, self._reader, model, resident, self._release_timeout_s)
        self._ledger.before_start(model, reading, resident)

    async def learn(self, model: str) -> int | None:
        """The model is in: what it counts for from now, in bytes; None when that could not be measured."""
        reading = None if self._reader is None else await self._reader.read()
        taken = self._ledger.after_start(model, reading)
        return None if taken is None else self._ledger.footprint(model)

    def footprint(self, model: str) -> int:
        """What the model counts for: held while it is resident, needed for a start otherwise. In bytes."""
        return self._ledger.footprint(model)

    def failed(self, model: str, reason: str) -> None:
        """A start failed; ``reason`` can say that memory ran out."""
        self._ledger.start_failed(model, reason)

    def stopping(self, model: str) -> None:
        """The engine is about to be stopped; ``gone`` follows, or another try."""
        self._ledger.stopping(model)

    async def gone(self, model: str, resident: Collection[str]) -> None:
        """The engine has ended. Blocks until its memory is back. Raises MemoryNotFree, with figures."""
        if self._ledger.stopped(model):
            await wait_for_release(self._ledger, self._reader, model, resident, self._release_timeout_s)

    async def watch(self, resident: Resident, tell: Tell) -> None:
        """Look again and again, and tell the scheduler what has changed: neighbours, and models that grow."""
        while self._reader is not None:
            reading = self.reading = await self._reader.read()
            taken = self._ledger.observe(reading, resident())
            if self._changed(("neighbours", ""), taken):
                tell(NeighbourUses(self._ledger.device, taken))
            for model in self._models:
                size = self._ledger.footprint(model)
                if self._changed(("model", model), size):
                    tell(FootprintLearnt(model, size))
            await asyncio.sleep(LOOK_EVERY_S)

    def _changed(self, key: tuple[str, str], value: int) -> bool:
        if abs(value - self._told.get(key, 0)) < WORTH_TELLING_BYTES:
            return False
        self._told[key] = value
        return True
