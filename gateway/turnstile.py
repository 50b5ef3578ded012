"""Lets requests in that need not wait, and out again: all that nearly every one wants of the manager.

It is apart from ``model_manager`` so that it can be compiled: that is driven by coroutines and generators.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from time import perf_counter
from typing import Protocol

from gateway.scheduler import Event, Finished, Left, Outlook, Scheduler
from gateway.tickets import Entry, Ticket


class Manager(Protocol):
    """Who decides what cannot be decided here."""

    def report(self, event: Event) -> None: ...
    def outlook(self, ticket_id: int) -> Outlook: ...
    def examine(self, model: str, reason: str, *, silent: bool) -> None: ...
    async def look(self, model: str, reason: str) -> None: ...


class Turnstile:
    """The owner of all tickets, for its manager."""

    def __init__(self, manager: Manager, entries: Mapping[str, Entry], scheduler: Scheduler) -> None:
        self._manager = manager
        self._entries = entries
        self._scheduler = scheduler
        self._numbers = itertools.count(1)
        self.tickets: dict[int, Ticket] = {}
        """Those that were neither refused nor given back."""
        self.shut = False
        """The end is near: nobody is let in any more."""

    def now(self) -> float:
        """Seconds on the clock that everything about models is measured with."""
        return perf_counter()

    def ticket(self, model: str) -> Ticket:
        """One that was granted nothing yet, and is none of ``tickets``."""
        return Ticket(self, self._entries[model], next(self._numbers), perf_counter())

    def place(self, model: str, mark: int) -> Ticket | None:
        """A place in the engine now; None where a request has to wait for one, or is refused."""
        number, now = next(self._numbers), perf_counter()
        if self.shut or not self._scheduler.admit_at_once(number, model, mark, now):
            return None
        return self._taken(number, model, now)

    def lend(self, model: str) -> Ticket | None:
        """A place in the engine for requests to come, in another process; None where there is none."""
        number, now = next(self._numbers), perf_counter()
        if self.shut or not self._scheduler.lending.take(number, model, now):
            return None
        return self._taken(number, model, now)

    def _taken(self, number: int, model: str, now: float) -> Ticket:
        ticket = self.tickets[number] = Ticket(self, self._entries[model], number, now)
        ticket.grant(now)
        return ticket

    # ------------------------------------------------------------ for tickets

    def closed(self, ticket_id: int, *, granted: bool, at: float | None = None) -> None:
        """A request ended, or its client left. ``at``: when a lent place was used the last time."""
        self.tickets.pop(ticket_id, None)
        if granted and self._scheduler.ended_quietly(ticket_id, perf_counter(), at):
            return
        self._manager.report(Finished(ticket_id, at) if granted else Left(ticket_id))

    def outlook(self, ticket_id: int) -> Outlook:
        return self._manager.outlook(ticket_id)

    def examine(self, model: str, reason: str, *, silent: bool) -> None:
        self._manager.examine(model, reason, silent=silent)

    async def look(self, model: str, reason: str) -> None:
        await self._manager.look(model, reason)
