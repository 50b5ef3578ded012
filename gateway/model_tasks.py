"""What takes long and belongs to a model: tasks that nobody awaits, and whose faults are told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.tickets import Entry

logger = logging.getLogger("gateway.models")

Operation = Callable[[Entry], Coroutine[None, None, None]]


class ModelTasks:
    """All that are under way."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.hold(task)
        return task

    def hold(self, task: asyncio.Task[Any]) -> None:
        """Keep a task that somebody else has made, until it is done."""
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def operate(self, entry: Entry, what: Operation) -> None:
        """One operation per model at a time: a new one takes the place of what was under way."""
        before = entry.operation
        if before is not None:
            before.cancel()
        entry.operation = self.spawn(_after(before, what, entry))

    async def end(self) -> None:
        """Cancel all; return when the last one is over."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the model manager failed", exc_info=error)


async def _after(before: asyncio.Task[None] | None, what: Operation, entry: Entry) -> None:
    if before is not None:
        await asyncio.wait([before])
    await what(entry)
