"""Looks after the replicas of one model: probes each at its own pace, and follows what their names stand for.

What it sees goes into the ``ReplicaSet``, which decides; nothing here chooses.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

from gateway.config import ModelSpec
from gateway.errors import GatewayError
from gateway.replicas import Replica, ReplicaSet, ReplicaState, Rules, Seen
from gateway.upstream.address import shown
from gateway.upstream.base import EngineClient, EngineUnreachable
from gateway.upstream.names import LookUp, Names

logger = logging.getLogger("gateway.models")

TICK_S = 0.5
"""Pauses are slept in steps of this size: what is decided meanwhile can make them shorter."""


AWAY_FACTOR, AWAY_MAX_S = 1.5, 10.0
"""One that is away for long is looked for less and less often."""
LOOK_ON_S = 1.0
FIRST_NAMES_S = 2.0
_BEST_FIRST: tuple[Seen, ...] = ("answers", "busy", "ended")


async def probe(engine: EngineClient, url: str, timeout_s: float) -> tuple[Seen, str | None]:
    """What a probe of the engine shows, and its reason."""
    try:
        await engine.healthy(url, timeout_s)
    except EngineUnreachable as error:
        return "ended", error.message
    except GatewayError as error:
        return "busy", error.message
    return "answers", None


def rules_of(spec: ModelSpec) -> Rules:
    """The rules of a model's replicas, from its record."""
    routing, probes = spec.routing, spec.probes
    return Rules(
        fails=probes.fails,
        passes=probes.passes,
        eject_after=routing.eject_after,
        eject_s=routing.eject_s,
        eject_max_s=routing.eject_max_s,
        retry_share=routing.retry_share,
        retry_floor_per_s=routing.retry_floor_per_s,
    )


class Keeper:
    """See the module. Works while ``until`` runs; owns no task beyond that."""

    def __init__(self, spec: ModelSpec, engine: EngineClient, look_up: LookUp) -> None:
        addresses = [url.rstrip("/") for url in (spec.url, *spec.replicas) if url]
        self._model = spec.id
        self._engine = engine
        self._probes = spec.probes
        self._resolve_s = spec.routing.resolve_s
        self._names = Names(addresses, look_up)
        self.replicas = ReplicaSet(addresses, rules_of(spec), time.perf_counter())
        self.replicas.listen(self._changed)
        self._news = asyncio.Event()
        self._said = self._states()

    async def look(self, timeout_s: float) -> Seen:
        """Probe all now. The best that was seen of any; the rest is in ``replicas``.

        Once one answers, the others have a moment left: one that hangs is for its prober to judge.
        """
        await self._first_names(timeout_s)
        looks = [asyncio.create_task(self._look_at(replica, timeout_s)) for replica in self.replicas.current]
        try:
            for look in asyncio.as_completed(looks):
                if await look == "answers":
                    break
            done, _ = await asyncio.wait(looks, timeout=LOOK_ON_S)
        finally:
            await _cancelled(looks)
        seen = {task.result() for task in done}
        return next((best for best in _BEST_FIRST if best in seen), "ended")

    async def until(self, done: Callable[[], bool], pause_s: float, heard_at: Callable[[], float]) -> None:
        """Probe and resolve until ``done``. ``pause_s`` is that between probes of one that is down."""
        tasks: dict[str, asyncio.Task[None]] = {}
        if self._names.any and self._resolve_s:
            tasks[""] = asyncio.create_task(self._follow_names(pause_s))
        try:
            while not done():
                self._news.clear()
                self._match(tasks, pause_s, heard_at)
                await self._news.wait()
        finally:
            await _cancelled(tasks.values())

    def _match(
        self, tasks: dict[str, asyncio.Task[None]], pause_s: float, heard_at: Callable[[], float]
    ) -> None:
        """One prober for each address there is, and none for those that are gone."""
        current = {replica.url: replica for replica in self.replicas.current}
        for url in [url for url in tasks if url and url not in current]:
            tasks.pop(url).cancel()
        for url, replica in current.items():
            if url not in tasks:
                tasks[url] = asyncio.create_task(self._prober(replica, pause_s, heard_at))
                tasks[url].add_done_callback(lambda _: self._news.set())
        for task in tasks.values():
            if task.done():
                task.result()  # none ever ends but by a fault of ours, which must be seen

    async def _prober(self, replica: Replica, pause_s: float, heard_at: Callable[[], float]) -> None:
        while True:
            await self._pause(replica, pause_s)
            begun = time.perf_counter()
            seen, reason = await probe(self._engine, replica.url, self._probes.timeout_s)
            heard = replica.heard_at if self.replicas.several else max(replica.heard_at, heard_at())
            # TGI answers /health only between two forward passes: one that sends tokens lives.
            if seen == "answers" or heard <= begun:
                self.replicas.probed(replica, seen, time.perf_counter(), reason)
            else:
                replica.row = 0
            self._news.set()

    async def _pause(self, replica: Replica, pause_s: float) -> None:
        """Until it is to be probed: at once when it is new, soon when it is down or its pause is over."""
        begun = time.perf_counter()
        pause_s *= random.uniform(0.75, 1.25)  # noqa: S311  so that hundreds are not probed at one moment
        await asyncio.sleep(0)
        while (left_s := begun + self._due_s(replica, begun, pause_s) - time.perf_counter()) > 0:
            await asyncio.sleep(min(left_s, TICK_S))

    def _due_s(self, replica: Replica, begun: float, pause_s: float) -> float:
        if replica.probed_at is None:
            return 0.0
        if not replica.up:
            misses = max(0, -replica.row - 1)
            return min(pause_s * AWAY_FACTOR ** min(misses, 20), max(pause_s, AWAY_MAX_S))
        if replica.retry_at is not None and not replica.on_trial:
            return min(self._probes.interval_s, max(0.0, replica.retry_at - begun))
        return self._probes.interval_s

    async def _look_at(self, replica: Replica, timeout_s: float) -> Seen:
        seen, reason = await probe(self._engine, replica.url, timeout_s)
        self.replicas.probed(replica, seen, time.perf_counter(), reason, decisive=True)
        self._news.set()
        return seen

    # ------------------------------------------------------------ names

    async def _first_names(self, timeout_s: float) -> None:
        if self._names.known or not self._resolve_s:
            return
        try:
            async with asyncio.timeout(min(timeout_s, FIRST_NAMES_S)):
                await self._resolve()
        except TimeoutError:
            logger.warning("%s: its names are not resolved yet; going on without", self._model)

    async def _follow_names(self, pause_s: float) -> None:
        while True:
            await self._resolve()
            # A container that was made anew has another address: who has none waits no longer than it must.
            pause = self._resolve_s if self.replicas.any_up else min(self._resolve_s, pause_s)
            await asyncio.sleep(pause)

    async def _resolve(self) -> None:
        await self._names.refresh()
        self.replicas.update(self._names.urls())

    # ------------------------------------------------------------ what is said of it

    def _states(self) -> dict[str, ReplicaState]:
        return {replica.url: replica.state for replica in self.replicas.all}

    def _changed(self) -> None:
        before, self._said = self._said, self._states()
        self._news.set()
        gone = before.keys() - self._said.keys()
        for url in gone:
            self._engine.forget(url)
        if len(before) < 2 and len(self._said) < 2:
            return  # of one alone the model's own state says it all
        for replica in self.replicas.all:
            if before.get(replica.url) is not replica.state:
                self._log(replica)
        for url in gone:
            logger.info("%s: replica %s is gone", self._model, shown(url))

    def _log(self, replica: Replica) -> None:
        bad = replica.state in (ReplicaState.EJECTED, ReplicaState.DOWN) and replica.probed_at is not None
        level = logging.WARNING if bad else logging.INFO
        why = f": {replica.reason}" if replica.reason else ""
        logger.log(level, "%s: replica %s is %s%s", self._model, shown(replica.url), replica.state, why)


async def _cancelled(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Returns once all have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
