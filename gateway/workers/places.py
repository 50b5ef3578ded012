"""The worker's side of lending: the places that the owner has lent it, and what it does with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NoReturn

from gateway.scheduler import ModelView, Outlook
from gateway.tickets import Condition, Entry, Progress, Ticket
from gateway.workers.channel import Message

FEW: Final = 4
"""With fewer free places than this, more are asked for; so many are kept while requests come."""
AT_LEAST: Final = 8
ASK_AGAIN_S: Final = 0.05
KEPT_S: Final = 1.0
"""What nothing needed for so long is given back, unless it is called back before."""


class _Elsewhere:
    """An engine that the owner starts, stops and watches."""

    managed = available = True

    def __init__(self, url: str) -> None:
        self.url = url

    async def condition(self, timeout_s: float) -> Condition:
        self._not_ours()

    async def start(self, say: Callable[[Progress], None]) -> None:
        self._not_ours()

    async def stop(self, *, force: bool) -> None:
        self._not_ours()

    async def logs(self, tail: int) -> list[str]:
        self._not_ours()

    async def watch(self, heard_at: Callable[[], float]) -> str:
        self._not_ours()

    def _not_ours(self) -> NoReturn:
        raise RuntimeError("a worker only sends requests to engines")


@dataclass(slots=True, eq=False)
class _Held:
    """The places in one engine."""

    entry: Entry
    free: list[int] = field(default_factory=list)
    used: dict[int, float] = field(default_factory=dict)  # since when
    recalled: bool = False
    least_free: int = 0  # since ``counted_at``
    counted_at: float = 0.0
    used_at: float = 0.0  # the last time that a request ended
    begun: int = 0  # since the owner was told
    ended: int = 0
    ended_s: float = 0.0  # of all of these together

    def spare(self, now: float) -> int:
        """How many were not needed lately. To be asked now and then."""
        if self.recalled:
            return len(self.free)
        if now - self.counted_at < KEPT_S:
            return 0
        kept = FEW if now - self.used_at < KEPT_S or self.used else 0
        spare = max(0, min(self.least_free, len(self.free)) - kept)
        self.least_free, self.counted_at = len(self.free) - spare, now
        return spare

    def said(self, now: float) -> dict[str, float]:
        """What happened since the last time."""
        mean_s = self.ended_s / self.ended if self.ended else 0.0
        said = {"used": len(self.used), "begun": self.begun, "ended": self.ended, "mean_s": mean_s}
        self.begun, self.ended, self.ended_s = 0, 0, 0.0
        return {**said, "heard": self.entry.heard_at}


class Places:
    """All that are here. Tickets of this process belong to it, as those of the owner to the manager."""

    def __init__(self, tell: Callable[[Message], object]) -> None:
        self._tell = tell
        self._held: dict[str, _Held] = {}
        self._asked_at: dict[str, float] = {}
        self._said: dict[str, dict[str, float]] = {}
        self.missed: str | None = None
        """The model of which there was no place, the last time that one was wanted."""

    def now(self) -> float:
        """Seconds on the clock of the whole machine: the owner's is the same."""
        return time.perf_counter()

    def url(self, model: str) -> str | None:
        """Where its engine is; None for one of which there was never a place here."""
        held = self._held.get(model)
        return None if held is None else held.entry.control.url

    def place(self, model: str, mark: int) -> Ticket | None:
        held = self._held.get(model)
        if held is None or held.recalled or not held.free:
            self.missed = model
            self._want(model, held)
            return None
        number, now = held.free.pop(), self.now()
        ticket = Ticket(self, held.entry, number, now)
        ticket.grant(now)
        held.used[number] = now
        held.begun += 1
        if len(held.free) < held.least_free:
            held.least_free = len(held.free)
        if len(held.free) < FEW:
            self._want(model, held)
        return ticket

    def since(self, ticket: Ticket) -> float:
        """When its request got it."""
        return self._held[ticket.model].used[ticket.id]

    def hand_on(self, ticket: Ticket) -> None:
        """The request has taken its place along to the owner."""
        del self._held[ticket.model].used[ticket.id]
        ticket.left("unknown")

    def _want(self, model: str, held: _Held | None) -> None:
        now = self.now()
        if now - self._asked_at.get(model, 0.0) >= ASK_AGAIN_S:
            self._asked_at[model] = now
            count = max(AT_LEAST, len(held.used) if held is not None else 0)
            self._tell({"is": "want", "model": model, "places": count})

    # ------------------------------------------------------------ what the owner says

    def give(self, model: str, url: str, places: list[int]) -> None:
        held = self._held.get(model)
        if held is None:
            held = self._held[model] = _Held(_entry(model, url))
        elif held.entry.control.url != url:
            held.entry = _entry(model, url)  # it was started anew
        held.recalled = False
        held.free += places
        held.counted_at = self.now()

    def recall(self, model: str) -> None:
        if (held := self._held.get(model)) is not None:
            held.recalled = True
            self._give_back(model, held, len(held.free), recalled=True)

    def recall_all(self) -> None:
        for model in self._held:
            self.recall(model)

    def tick(self) -> dict[str, dict[str, float]]:
        """Give back what is not needed. Returns what the owner has to know, by model, where it is new."""
        now, news = self.now(), {}
        for model, held in self._held.items():
            self._give_back(model, held, held.spare(now))
            said = held.said(now)
            if said != self._said.get(model):
                news[model] = self._said[model] = said
        return news

    def _give_back(self, model: str, held: _Held, count: int, *, recalled: bool = False) -> None:
        """``recalled``: the owner waits for the answer, also when there is nothing to give."""
        if count or recalled:
            places, held.free = held.free[:count], held.free[count:]
            self._tell(
                {
                    "is": "return",
                    "model": model,
                    "places": places,
                    "used_at": held.used_at,
                    "recalled": recalled,
                }
            )

    # ------------------------------------------------------------ for tickets

    def closed(self, ticket_id: int, *, granted: bool, at: float | None = None) -> None:
        for model, held in self._held.items():
            if (since := held.used.pop(ticket_id, None)) is not None:
                held.used_at = self.now()
                held.ended += 1
                held.ended_s += held.used_at - since
                held.free.append(ticket_id)
                if held.recalled:
                    self._give_back(model, held, len(held.free))
                return

    def examine(self, model: str, reason: str, *, silent: bool) -> None:
        heard = self._held[model].entry.heard_at
        self._tell({"is": "suspect", "model": model, "reason": reason, "silent": silent, "heard": heard})

    def outlook(self, ticket_id: int) -> Outlook:
        return Outlook("ready", 0, 0.0)

    async def look(self, model: str, reason: str) -> None:
        """Only the ordinary way waits for that."""

    def view(self, model: str) -> ModelView:
        """Only the ordinary way asks for that."""
        raise RuntimeError("a worker knows no states")


def _entry(model: str, url: str) -> Entry:
    return Entry(id=model, control=_Elsewhere(url), device=None, silence_s=0.0)
