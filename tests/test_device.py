"""One device's memory across starts that do not begin, stops, and neighbours that come meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from gateway import device
from gateway.device import DeviceMemory
from gateway.memory import Ledger, MemoryNotFree, Reading
from gateway.scheduler import FootprintLearnt, NeighbourUses

GIB = 2**30


class Card:
    """A card of 24 GiB whose use a test sets; counts how often it was read."""

    def __init__(self, used: float = 0.5) -> None:
        self.used = used
        self.reads = 0

    async def read(self) -> Reading:
        self.reads += 1
        return Reading(24 * GIB, round(self.used * GIB))


def memory_of(card: Card, release_timeout_s: float = 30.0) -> DeviceMemory:
    ledger = Ledger("gpu0", 24 * GIB, {"qwen2": 10 * GIB, "small": 2 * GIB})
    return DeviceMemory(ledger, ["qwen2", "small"], card, release_timeout_s)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


class Watch:
    """What was last told of neighbours, while the device is looked at."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self.neighbours = 0

    def hear(self, event: NeighbourUses | FootprintLearnt) -> None:
        if isinstance(event, NeighbourUses):
            self.neighbours = event.bytes

    async def look(self) -> float:
        """After two more readings: what the last word on neighbours is, in GiB."""
        enough = self._card.reads + 2
        await until(lambda: self._card.reads >= enough)
        return self.neighbours / GIB


@asynccontextmanager
async def watching(card: Card, memory: DeviceMemory, resident: list[str]) -> AsyncIterator[Watch]:
    watch = Watch(card)
    task = asyncio.create_task(memory.watch(lambda: resident, watch.hear))
    try:
        yield watch
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "LOOK_EVERY_S", 0.005)


async def cancelled_while_it_waits(card: Card, memory: DeviceMemory) -> None:
    reads = card.reads
    start = asyncio.create_task(memory.make_sure_of_room("qwen2", ()))
    await until(lambda: card.reads > reads)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start


async def begin(card: Card, memory: DeviceMemory, model: str, used: float) -> None:
    await memory.make_sure_of_room(model, ())
    card.used = used
    await memory.learn(model)


@pytest.mark.parametrize("failed_first", [False, True])
async def test_start_that_a_game_kept_from_beginning_has_nothing_to_give_back(failed_first: bool) -> None:
    card = Card(20)
    memory = memory_of(card)
    await cancelled_while_it_waits(card, memory)
    if failed_first:
        memory.failed("qwen2", "cancelled")
    async with asyncio.timeout(1):
        await memory.gone("qwen2", ())
    async with watching(card, memory, []) as watch:
        assert await watch.look() == 20


async def test_start_that_failed_for_want_of_room_leaves_the_game_to_be_seen() -> None:
    card = Card(20)
    memory = memory_of(card, 0)
    with pytest.raises(MemoryNotFree):
        await memory.make_sure_of_room("qwen2", ())
    memory.failed("qwen2", "no room")
    async with watching(card, memory, []) as watch:
        assert await watch.look() == 20
        card.used = 0.5
        assert await watch.look() == 0.5


async def test_game_is_seen_while_a_start_waits_for_its_room() -> None:
    card = Card(20)
    memory = memory_of(card)
    waits = asyncio.create_task(memory.make_sure_of_room("qwen2", ()))
    async with watching(card, memory, ["qwen2"]) as watch:
        assert await watch.look() == 20
        card.used = 1
        await waits
        assert await watch.look() == 1
        card.used = 7  # and from here it is the load, for all one knows
        assert await watch.look() == 1


async def test_start_that_does_not_begin_spoils_no_measurement_of_another() -> None:
    card = Card()
    memory = memory_of(card)
    await memory.make_sure_of_room("small", ())
    card.used = 20
    await cancelled_while_it_waits(card, memory)
    await memory.gone("qwen2", ["small"])
    card.used = 2.0
    assert await memory.learn("small") == 1.5 * GIB


async def test_engine_whose_start_was_not_seen_is_waited_for_when_it_stops() -> None:
    memory = memory_of(Card(20), 0)
    with pytest.raises(MemoryNotFree, match="qwen2"):
        await memory.gone("qwen2", ())


async def test_start_that_began_after_one_that_did_not_is_waited_for_when_it_stops() -> None:
    card = Card(20)
    memory = memory_of(card, 0.01)
    await cancelled_while_it_waits(card, memory)
    card.used = 0.5
    await begin(card, memory, "qwen2", 20.5)
    with pytest.raises(MemoryNotFree, match="qwen2"):
        await memory.gone("qwen2", ())


async def test_neighbours_keep_their_figure_while_one_of_ours_stops() -> None:
    card = Card(3)
    memory = memory_of(card)
    await begin(card, memory, "qwen2", 13)
    resident = ["qwen2"]
    async with watching(card, memory, resident) as watch:
        assert await watch.look() == 3
        memory.stopping("qwen2")
        for card.used in (9, 6, 3.5):  # its shards go one by one, and the launcher is still there
            assert await watch.look() == 3
        card.used = 3
        resident.clear()
        await memory.gone("qwen2", ())
        card.used = 8
        assert await watch.look() == 8


async def test_neighbours_are_told_again_after_a_stop_and_another_start() -> None:
    card = Card(1)
    memory = memory_of(card)
    await begin(card, memory, "qwen2", 11)
    memory.stopping("qwen2")
    card.used = 1
    await memory.gone("qwen2", ())
    await begin(card, memory, "qwen2", 11)
    async with watching(card, memory, ["qwen2"]) as watch:
        card.used = 16
        assert await watch.look() == 6
