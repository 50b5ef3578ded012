"""Memory of a device, read and waited for. What the figures mean is decided in ``ledger.py``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from gateway.errors import ModelUnavailable
from gateway.ledger import NOISE_BYTES, Ledger, Reading, Room, format_bytes, out_of_memory

__all__ = [
    "Ledger",
    "MemoryNotFree",
    "MemoryReader",
    "Reading",
    "Room",
    "format_bytes",
    "not_free",
    "out_of_memory",
    "wait_for_release",
    "wait_for_room",
]

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


class MemoryReader(Protocol):
    """Measures one device. Says by itself, once, why it cannot and when it can again."""

    async def read(self) -> Reading | None:
        """The memory now; None when it cannot be measured. Does not block the loop and does not raise."""
        ...


class MemoryNotFree(ModelUnavailable):
    """The memory that a start needs did not become free in time. ``message`` has the figures."""

    type = "memory_not_free"


async def wait_for_room(
    ledger: Ledger,
    reader: MemoryReader | None,
    model: str,
    resident: Collection[str],
    timeout_s: float,
    *,
    poll_s: float = 0.25,
    clock: Clock = time.monotonic,
    sleep: Sleep = asyncio.sleep,
) -> Reading | None:
    """Wait until a start of ``model`` has its room; gives the reading that showed it, for ``before_start``.

    Without a reading, declared figures decide. Raises MemoryNotFree with the figures after ``timeout_s``.
    """

    def there(reading: Reading | None) -> bool:
        return ledger.room_for(model, reading, resident).fits

    fits, reading = await _poll(reader, there, timeout_s, poll_s, clock, sleep)
    if not fits:
        hint = f"Close what uses {ledger.device}, or lower the model's limits"
        raise not_free(ledger, model, reading, resident, timeout_s, hint)
    return reading


async def wait_for_release(
    ledger: Ledger,
    reader: MemoryReader | None,
    model: str,
    resident: Collection[str],
    timeout_s: float,
    *,
    poll_s: float = 0.25,
    clock: Clock = time.monotonic,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Wait until the memory of a stopped model is back.

    When it is not after ``timeout_s`` but there is room for the model again, somebody else took it, and that
    is all right. Raises MemoryNotFree otherwise.
    """

    last: Reading | None = None

    def back(reading: Reading | None) -> bool:
        nonlocal last
        before, last = last, reading
        if reading is None:
            return True
        return ledger.released(model, reading, resident) and not still_falling(before, reading)

    released, reading = await _poll(reader, back, timeout_s, poll_s, clock, sleep)
    if not released and not ledger.room_for(model, reading, resident).fits:
        hint = f"{model} was stopped: look for a process of it that still runs on {ledger.device}"
        raise not_free(ledger, model, reading, resident, timeout_s, hint)
    ledger.settled(model)
    ledger.observe(reading, resident)


async def _poll(
    reader: MemoryReader | None,
    done: Callable[[Reading | None], bool],
    timeout_s: float,
    poll_s: float,
    clock: Clock,
    sleep: Sleep,
) -> tuple[bool, Reading | None]:
    deadline = clock() + timeout_s
    while True:
        reading = await reader.read() if reader is not None else None
        if done(reading):
            return True, reading
        left_s = deadline - clock()
        if left_s <= 0:
            return False, reading
        await sleep(min(poll_s, left_s))


def still_falling(before: Reading | None, now: Reading) -> bool:
    """Whether memory may still be coming back, which would spoil what the next start is measured against.

    Two readings of a device tell; where ours are told apart there is nothing to wait for.
    """
    if now.by_model is not None:
        return False
    return before is None or before.used_bytes - now.used_bytes > NOISE_BYTES


def not_free(
    ledger: Ledger,
    model: str,
    reading: Reading | None,
    resident: Collection[str],
    waited_s: float,
    hint: str,
) -> MemoryNotFree:
    """The error for room that did not come, in figures."""
    room = ledger.room_for(model, reading, resident)
    shares = [f"{name} {format_bytes(ledger.footprint(name))}" for name in resident if name != model]
    free, capacity = format_bytes(room.free_bytes), format_bytes(ledger.capacity_bytes)
    parts = [
        f"{ledger.device}: {model} needs {format_bytes(room.needed_bytes)}",
        f"{free} of {capacity} are free after {waited_s:g} s",
        f"ours: {', '.join(shares) or 'none'}",
    ]
    if reading is not None:
        parts.append(f"others use {format_bytes(ledger.unattributed_bytes(reading, resident))}")
    return MemoryNotFree("; ".join(parts), hint=hint)
