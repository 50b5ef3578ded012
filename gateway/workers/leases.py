"""The owner's side of lending: which places in the engines are with which worker.

A place is lent only while nobody waits for it, or for room on the model's device, and at most half of those
that are free at once. All of a model are called back as soon as that changes: so whoever waits, waits for
the requests that really run, and the scheduler decides as if there were no workers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

from gateway.model_manager import ModelManager
from gateway.tickets import Ticket

logger = logging.getLogger("gateway.workers")


class Holder(Protocol):
    """A worker, as somebody who is lent places."""

    def give(self, model: str, url: str, places: list[int]) -> None: ...
    def recall(self, model: str) -> None: ...


class _Held:
    """What one worker has of one model."""

    __slots__ = ("recalled", "tickets", "used")

    def __init__(self) -> None:
        self.tickets: dict[int, Ticket] = {}
        self.used = 0  # as it said the last time
        self.recalled = False


class Leases:
    """All that are out."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager
        self._lent: dict[str, dict[Holder, _Held]] = {}
        manager.watched_by(self._look)

    @property
    def calm(self) -> bool:
        """Whether nobody waits for anything, so that it is worth sending clients to workers."""
        return self._manager.lending.calm

    def want(self, holder: Holder, model: str, count: int) -> None:
        """A worker could use so many places. Perhaps it gets some."""
        spare, url = self._manager.lending.spare(model), self._manager.url_if_ready(model)
        # Whoever chooses among replicas must know how many requests each has: that stays with the owner.
        if spare is None or url is None or self._manager.entry(model).replicas.several:
            return
        held = self._lent.setdefault(model, {}).setdefault(holder, _Held())
        places: list[int] = []
        while len(places) < min(count, spare // 2) and (ticket := self._manager.lend(model)) is not None:
            held.tickets[ticket.id] = ticket
            places.append(ticket.id)
        if places:
            held.recalled = False
            self._tell_unused(model)
            holder.give(model, url, places)

    def given_back(self, holder: Holder, model: str, places: Iterable[int], used_at: float) -> None:
        held = self._of(holder, model)
        for place in places:
            if (ticket := held.tickets.pop(place, None)) is not None:
                self._tell_unused(model)
                ticket.close(used_at)

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
            self._tell_unused(model)

    def _of(self, holder: Holder, model: str) -> _Held:
        return self._lent.get(model, {}).get(holder) or _Held()

    def _look(self) -> None:
        for model, holders in self._lent.items():
            several = self._manager.entry(model).replicas.several
            if several or self._manager.lending.spare(model) is None:
                self._recall(model, holders)

    def _recall(self, model: str, holders: Mapping[Holder, _Held]) -> None:
        for holder, held in holders.items():
            if held.tickets and not held.recalled:
                held.recalled = True
                holder.recall(model)

    def _tell_unused(self, model: str) -> None:
        unused = sum(max(0, len(held.tickets) - held.used) for held in self._lent.get(model, {}).values())
        self._manager.lending.unused(model, unused)

    def _heard(self, model: str, at: float) -> None:
        entry = self._manager.entry(model)
        entry.heard_at = max(entry.heard_at, at)
        for replica in entry.replicas.all[:1]:
            replica.heard_at = max(replica.heard_at, at)
