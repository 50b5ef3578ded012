"""The owner's side of lending, without processes: what is recalled, and who waits for the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.errors import ModelUnavailable, Overloaded
from gateway.metrics import Metrics
from gateway.model_manager import ModelManager
from gateway.scheduler import DevicePolicy, ModelPolicy, Scheduler, SwitchPolicy
from gateway.tickets import Condition, Entry
from gateway.workers.leases import Leases

PLACES = 4


class Answering:
    """An engine of somebody else's, which answers for ever."""

    managed, available, url = False, True, "http://127.0.0.1:1"

    async def condition(self, timeout_s: float) -> Condition:
        return "answers"

    async def start(self, say: object) -> None: ...
    async def stop(self, *, force: bool) -> None: ...
    async def logs(self, tail: int) -> list[str]:
        return []

    async def watch(self, heard_at: object) -> str:
        await asyncio.Event().wait()
        return ""


class Worker:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.places: list[int] = []
        self.recalled = asyncio.Event()

    def give(self, model: str, url: str, places: list[int]) -> None:
        self.places += places
        self.recalled.clear()

    def recall(self, model: str) -> None:
        self.recalled.set()


class Desk:
    def __init__(self, max_queue: int) -> None:
        policy = ModelPolicy("echo", "nowhere", 0, managed=False, max_concurrent=PLACES, max_queue=max_queue)
        scheduler = Scheduler([policy], [DevicePolicy("nowhere", 0)], SwitchPolicy(), 0.0)
        self.manager = ModelManager([Entry("echo", Answering(), None, 60.0)], scheduler, Metrics())
        self.leases = Leases(self.manager)
        self.worker = Worker()

    def give_back(self, places: list[int], *, recalled: bool = True) -> None:
        self.leases.given_back(self.worker, "echo", places, self.manager.now(), recalled=recalled)

    def fill(self) -> None:
        """All places are taken: two are lent, and requests run in the rest."""
        self.leases.want(self.worker, "echo", 8)
        assert len(self.worker.places) == PLACES // 2
        while self.manager.place("echo", 0) is not None:
            pass


@asynccontextmanager
async def desk(max_queue: int) -> AsyncIterator[Desk]:
    made = Desk(max_queue)
    async with made.manager.running():
        yield made


async def test_request_is_decided_on_after_the_answer_to_the_recall() -> None:
    async with desk(max_queue=0) as at:
        at.fill()
        asking = asyncio.create_task(at.manager.ask("echo", wait_s=5))
        await asyncio.wait_for(at.worker.recalled.wait(), 5)
        assert not asking.done()
        at.give_back(at.worker.places[:1])
        assert (await asyncio.wait_for(asking, 5)).granted


async def test_without_a_queue_it_is_refused_only_when_requests_run_in_all_places() -> None:
    async with desk(max_queue=0) as at:
        at.fill()
        asking = asyncio.create_task(at.manager.ask("echo", wait_s=5))
        await asyncio.wait_for(at.worker.recalled.wait(), 5)
        at.give_back([])
        with pytest.raises(Overloaded):
            await asyncio.wait_for(asking, 5)
        next_one = asyncio.create_task(at.manager.ask("echo", wait_s=5))
        await asyncio.sleep(0)
        assert next_one.done(), "it is known that none is unused: nothing is waited for"
        with pytest.raises(Overloaded):
            await next_one


async def test_nothing_is_lent_while_places_are_on_their_way_home() -> None:
    async with desk(max_queue=0) as at:
        at.fill()
        asking = asyncio.create_task(at.manager.ask("echo", wait_s=5))
        await asyncio.wait_for(at.worker.recalled.wait(), 5)
        lent = [*at.worker.places]
        at.give_back(lent, recalled=False)
        at.leases.want(at.worker, "echo", 8)
        assert at.worker.places == lent
        at.give_back([])
        assert (await asyncio.wait_for(asking, 5)).granted


async def test_worker_that_ends_has_answered() -> None:
    async with desk(max_queue=0) as at:
        at.fill()
        asking = asyncio.create_task(at.manager.ask("echo", wait_s=5))
        await asyncio.wait_for(at.worker.recalled.wait(), 5)
        at.leases.gone(at.worker)
        assert (await asyncio.wait_for(asking, 5)).granted
        assert at.leases.lent() == {"echo": 0}


async def test_worker_that_stands_still_is_not_waited_for_long() -> None:
    async with desk(max_queue=0) as at:
        at.fill()
        with pytest.raises(Overloaded):
            await asyncio.wait_for(at.manager.ask("echo", wait_s=5), 5)


async def test_who_leaves_during_a_recall_has_never_been_there() -> None:
    async with desk(max_queue=8) as at:
        at.fill()
        asking = asyncio.create_task(at.manager.ask("echo", wait_s=5))
        await asyncio.wait_for(at.worker.recalled.wait(), 5)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        at.give_back(at.worker.places)
        assert at.manager.view("echo").waiting == 0
        at.leases.want(at.worker, "echo", 8)
        assert len(at.worker.places) == PLACES // 2 + 1


async def test_who_waits_for_a_recall_as_the_end_begins_is_told_so() -> None:
    async with desk(max_queue=8) as at:
        at.fill()
        asking = asyncio.create_task(at.manager.ask("echo", wait_s=5))
        await asyncio.wait_for(at.worker.recalled.wait(), 5)
        at.manager.wind_down()
        at.give_back(at.worker.places)
        with pytest.raises(ModelUnavailable):
            await asyncio.wait_for(asking, 5)
