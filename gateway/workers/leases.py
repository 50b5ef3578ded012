"""The owner's side of lending: which places in the engines are with which worker.

A place is lent only while nobody waits for it, or for room on the model's device, and at most half of those
that are free at once. Before a request that cannot be let in at once is decided on, those that are lent and
unused on its device come home: so it waits for requests that really run, or not at all, and the scheduler
decides as if there were no workers. The same happens whenever somebody begins to wait, or a model drains.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from gateway.model_manager import ModelManager
from gateway.tickets import Ticket

logger = logging.getLogger("gateway.workers")

LEAST_SPARE: Final = 2
"""Of so many free places, one may be lent."""
HOME_S: Final = 0.25
"""So long is waited for the answer to a recall: a worker needs much less unless it stands still."""


class Holder(Protocol):
    """A worker, as somebody who is lent places."""

    def give(self, model: str, url: str, places: list[int]) -> None: ...
    def recall(self, model: str) -> None: ...


class _Held:
    """What one worker has of one model."""

    __slots__ = ("home", "tickets", "used")

    def __init__(self) -> None:
        self.tickets: dict[int, Ticket] = {}
        self.used = 0  # as it said the last time
        self.home: asyncio.Future[None] | None = None
        """Of a recall: done once it has answered, so that requests run in all that it still has. None since
        it was given more."""

    @property
    def coming_home(self) -> bool:
        """Whether a recall is under way."""
        return self.home is not None and not self.home.done()

    def is_home(self) -> None:
        if self.home is not None and not self.home.done():
            self.home.set_result(None)


class Leases:
    """All that are out."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager
        self._lent: dict[str, dict[Holder, _Held]] = {}
        self._called: Counter[str] = Counter()  # by how many requests, whose places are not there yet
        manager.lends_through(self)

    @property
    def calm(self) -> bool:
        """Whether nobody waits for anything, so that it is worth sending clients to workers."""
        return self._manager.lending.calm

    def lent(self) -> dict[str, int]:
        """How many places each model's workers have, whether they use them or not."""
        return {
            model: sum(len(held.tickets) for held in holders.values())
            for model, holders in self._lent.items()
        }

    def possible(self, model: str) -> bool:
        """Whether a worker that wants places of this model gets some now."""
        # Whoever chooses among replicas must know how many requests each has: that stays with the owner.
        if self._manager.entry(model).replicas.several:
            return False
        return (self._manager.lending.spare(model) or 0) >= LEAST_SPARE

    def want(self, holder: Holder, model: str, count: int) -> None:
        """A worker could use so many places. Perhaps it gets some."""
        spare, url = self._manager.lending.spare(model), self._manager.url_if_ready(model)
        if spare is None or url is None or not self.possible(model):
            return
        held = self._lent.setdefault(model, {}).setdefault(holder, _Held())
        if held.coming_home or self._called[model]:
            return  # it will ask again
        places: list[int] = []
        while (
            len(places) < min(count, spare // LEAST_SPARE)
            and (ticket := self._manager.lend(model)) is not None
        ):
            held.tickets[ticket.id] = ticket
            places.append(ticket.id)
        if places:
            held.home = None
            self._tell_unused(model)
            holder.give(model, url, places)

    def given_back(
        self, holder: Holder, model: str, places: Iterable[int], used_at: float, *, recalled: bool
    ) -> None:
        """``recalled``: these are all that it did not use when it heard the recall."""
        held = self._of(holder, model)
        for place in places:
            if (ticket := held.tickets.pop(place, None)) is not None:
                self._tell_unused(model)
                ticket.close(used_at)
        if recalled:
            held.is_home()

    def handed_on(self, holder: Holder, model: str, place: int, since: float) -> Ticket | None:
        """The place now belongs to one request, which began there at ``since`` and goes on here."""
        ticket = self._of(holder, model).tickets.pop(place, None)
        if ticket is not None:
            self._manager.lending.hand_on(place, since)
            self._tell_unused(model)
        return ticket

    def worked(self, holder: Holder, seen: Mapping[str, Mapping[str, float]]) -> None:
        """What was done with them since the last time, by model: how many are ``used`` now, requests that
        have ``begun`` and ``ended``, the latter after ``mean_s``, and when the engine was ``heard``."""
        now = self._manager.now()
        for model, said in seen.items():
            self._of(holder, model).used = int(said["used"])
            self._tell_unused(model)
            self._manager.lending.worked(model, int(said["begun"]), int(said["ended"]), said["mean_s"], now)
            self._heard(model, said["heard"])

    def suspect(self, model: str, reason: str, heard: float, *, silent: bool) -> None:
        """An engine failed a request there in a way that may concern all."""
        self._heard(model, heard)
        self._manager.examine(model, reason, silent=silent)

    def gone(self, holder: Holder) -> None:
        """A worker has ended, and the engines have noticed: its connections are closed."""
        now = self._manager.now()
        for model, holders in [*self._lent.items()]:
            held = holders.pop(holder, None)
            for ticket in [*held.tickets.values()] if held is not None else ():
                ticket.close(now)
            if held is not None:
                held.is_home()
            self._tell_unused(model)

    # ------------------------------------------------------------ for the manager

    def look(self) -> None:
        for model in [*self._lent]:
            several = self._manager.entry(model).replicas.several
            if several or self._manager.lending.spare(model) is None:
                self._recall(model)

    async def call_home(self, model: str) -> None:
        models = self._manager.lending.on_the_same_device(model)
        on_their_way = [home for one in models for home in self._recall(one)]
        if not on_their_way:
            return
        self._called.update(models)
        try:
            await asyncio.wait(on_their_way, timeout=HOME_S)
        finally:
            self._called.subtract(models)

    def _recall(self, model: str) -> list[asyncio.Future[None]]:
        """Call back what is unused. Returns what is done as it comes."""
        under_way = []
        for holder, held in [*self._lent.get(model, {}).items()]:  # one may be found to have ended
            if held.tickets and held.home is None:
                held.home = asyncio.get_running_loop().create_future()
                holder.recall(model)
            if held.home is not None and held.coming_home:
                under_way.append(held.home)
        return under_way

    # ------------------------------------------------------------ bookkeeping

    def _of(self, holder: Holder, model: str) -> _Held:
        return self._lent.get(model, {}).get(holder) or _Held()

    def _tell_unused(self, model: str) -> None:
        unused = sum(max(0, len(held.tickets) - held.used) for held in self._lent.get(model, {}).values())
        self._manager.lending.unused(model, unused)

    def _heard(self, model: str, at: float) -> None:
        entry = self._manager.entry(model)
        entry.heard_at = max(entry.heard_at, at)
        for replica in entry.replicas.all[:1]:
            replica.heard_at = max(replica.heard_at, at)
