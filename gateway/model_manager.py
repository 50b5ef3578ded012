"""The owner of every model's state. Callers ask for a place and get one, or a reason.

The scheduler decides, this module does: it feeds events in, carries the actions out, and feeds back
how they ended. All of it runs on one event loop. ``_dispatch`` never awaits, so that each event is
decided and noted as one step, and a request for a resident model is granted without a task switch.
Starting and stopping take long and run in tasks that belong to the model, never to a request.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from gateway.device import DeviceMemory
from gateway.errors import ModelUnavailable
from gateway.events import EventHub
from gateway.metrics import Metrics
from gateway.model_tasks import ModelTasks
from gateway.operations import Operations
from gateway.scheduler import (
    Action,
    Arrived,
    CancelStart,
    Changed,
    Died,
    Event,
    Found,
    Grant,
    LoadAsked,
    ModelView,
    Outlook,
    Refuse,
    Scheduler,
    Start,
    Started,
    State,
    Stop,
    Tick,
    UnloadAsked,
    WakeAt,
)
from gateway.switch_costs import SwitchCosts
from gateway.tickets import FOUND, Condition, Entry, Lender, Progress, Ticket, error_for
from gateway.turnstile import Turnstile

logger = logging.getLogger("gateway.models")
SUPERVISOR_POLL_S = 1.0
TAKE_OVER_PROBE_S = 2.0
SHUTTING_DOWN = "The gateway is shutting down."
COME_BACK = "Send the request again in a moment."


class ModelManager:
    """See the module. ``running`` is its life; everything else is asked while it lives."""

    def __init__(self, entries: Sequence[Entry], scheduler: Scheduler, metrics: Metrics) -> None:
        self._entries: Mapping[str, Entry] = {entry.id: entry for entry in entries}
        self._scheduler = scheduler
        self._metrics = metrics
        self._operations = Operations(self, metrics)
        self._costs = SwitchCosts(metrics, {entry.id: entry.device for entry in entries})
        self._turnstile = Turnstile(self, self._entries, scheduler)
        self.place, self.lend = self._turnstile.place, self._turnstile.lend
        self._timer: asyncio.TimerHandle | None = None
        self._lender: Lender | None = None
        self.lending = scheduler.lending
        self._tasks = ModelTasks()
        self.events = EventHub()

    # ------------------------------------------------------------ for requests

    async def ask(self, model: str, *, wait_s: float, mark: int | None = None) -> Ticket:
        """A place in the queue or, at once, in the engine. Raises what refuses it at once.

        ``mark``: a request that was refused because the queue was full is known by it when it comes again.
        """
        self._refuse_at_the_end(model)
        entry = self._entries[model]
        if not entry.control.managed and self.view(model).state is State.FAILED:
            await self._look_again(entry)
        ticket, deadline = self._turnstile.ticket(model), self.now() + wait_s
        if self._lender is not None and self.lending.full(model):
            # It waits, is refused, or has another model go, for requests that really run alone.
            await self._lender.call_home(model)
            self._refuse_at_the_end(model)
        self._turnstile.tickets[ticket.id] = ticket
        self._dispatch(Arrived(ticket.id, model, deadline=deadline, mark=mark))
        if ticket.refusal is not None:
            raise ticket.refusal
        return ticket

    def _refuse_at_the_end(self, model: str) -> None:
        if self._turnstile.shut:
            self._metrics.count("gateway_rejected_total", model=model, why="shutting_down")
            raise ModelUnavailable(SHUTTING_DOWN, hint=COME_BACK)

    def lends_through(self, lender: Lender) -> None:
        """Places may be lent from now on, and ``lender`` knows which are."""
        self._lender = lender

    def outlook(self, ticket_id: int) -> Outlook:
        try:
            return self._scheduler.outlook(ticket_id, self.now())
        except KeyError:  # between two places: the first was lost, the second is being asked for
            return Outlook("queued", 0, None)

    def examine(self, model: str, reason: str, *, silent: bool) -> None:
        """Look at an engine that failed a request; recycle it when it fails all.

        One that went silent is judged by what others hear from it: TGI's /health can stay 200 when its
        batching is dead.
        """
        entry = self._entries[model]
        if not self._is_in(model):
            return
        if not silent or entry.replicas.several:
            entry.suspected_at = min(entry.suspected_at, self.now())
            self._tasks.spawn(self.look(model, reason))
        elif self.now() - entry.heard_at >= entry.silence_s:
            self._dispatch(Died(model, reason))

    async def look(self, model: str, reason: str) -> None:
        """See whether an engine is still there; when it is not, it has died, for ``reason``.

        One that is there without answering is left to the probes: they know how long a busy engine may take.
        """
        entry = self._entries[model]
        condition = await self._seen(entry)
        if condition == "answers":
            entry.suspected_at = math.inf
        # An engine that was ready and whose port is closed has crashed, though its process may not be reaped.
        is_dead = condition in ("ended", "loading")
        if is_dead and self._is_in(model):
            self._dispatch(Died(model, reason))

    async def _seen(self, entry: Entry) -> Condition:
        """One look serves all who ask for one meanwhile."""
        if entry.look is None or entry.look.done():
            entry.look = asyncio.create_task(entry.control.condition(entry.probe_s))
            self._tasks.hold(entry.look)
        return await asyncio.shield(entry.look)

    # ------------------------------------------------------------ for people

    def view(self, model: str) -> ModelView:
        return self._scheduler.view(model)

    def entry(self, model: str) -> Entry:
        return self._entries[model]

    def url_if_ready(self, model: str) -> str | None:
        return self._entries[model].replicas.best(self.now()).url if self._is_in(model) else None

    def any_ready(self) -> bool:
        """Whether at least one model answers, or can be brought in on request."""
        return any(self._can_answer(entry) for entry in self._entries.values())

    def load(self, model: str) -> None:
        self._dispatch(LoadAsked(model))

    def unload(self, model: str, *, force: bool) -> None:
        self._dispatch(UnloadAsked(model, force=force))

    def _is_in(self, model: str) -> bool:
        """Whether its engine answers: ready, or finishing what it runs."""
        return self.view(model).state in (State.READY, State.DRAINING)

    def _can_answer(self, entry: Entry) -> bool:
        if self._is_in(entry.id):
            return True
        retry_at = self.view(entry.id).retry_at
        backing_off = retry_at is not None and retry_at > self.now()
        return entry.control.managed and entry.control.available and not backing_off

    # ------------------------------------------------------------ its life

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take over what runs already, then serve until the block ends."""
        conditions = await asyncio.gather(
            *(entry.control.condition(TAKE_OVER_PROBE_S) for entry in self._entries.values())
        )
        # All are looked at before anything is decided: what runs holds memory, whoever asked for it.
        for entry, condition in zip(self._entries.values(), conditions, strict=True):
            self._take_over(entry, condition)
        for device in {entry.device for entry in self._entries.values() if entry.device is not None}:
            self._tasks.spawn(device.watch(partial(self.resident_on, device), self.report))
        self._dispatch(Tick())
        try:
            yield
        finally:
            await self._end()

    def _take_over(self, entry: Entry, condition: Condition) -> None:
        if not entry.control.managed:
            if condition == "answers":
                entry.ready_at = entry.heard_at = self.now()
                self._watch(entry)
            else:
                self._dispatch(Died(entry.id, f"nothing answers at {entry.control.url}"))
        elif not entry.control.available:
            logger.warning("%s: its supervisor cannot be reached yet", entry.id)
            self._await_supervisor(entry)
        elif condition != "ended":
            self._dispatch(Found(entry.id, FOUND[condition]))

    def wind_down(self) -> None:
        """The end is near: who waits is told so at once, who is being answered may finish."""
        self._turnstile.shut = True
        self.events.close()
        for ticket in [ticket for ticket in self._turnstile.tickets.values() if not ticket.granted]:
            ticket.refuse(ModelUnavailable(SHUTTING_DOWN, hint=COME_BACK))
            self._metrics.count("gateway_rejected_total", model=ticket.model, why="shutting_down")
            self._turnstile.closed(ticket.id, granted=False)

    async def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._tasks.end()
        self.events.close()

    def now(self) -> float:
        """Seconds on the clock that everything here is measured with."""
        return time.perf_counter()

    # ------------------------------------------------------------ decide and do

    def _dispatch(self, event: Event) -> None:
        if isinstance(event, Died) and self._is_in(event.model):
            self._metrics.count("gateway_engine_restarts_total", model=event.model)
        now = self.now()
        for action in self._scheduler.handle(event, now):
            self._do(action, now)
        if self._lender is not None:
            self._lender.look()

    def _do(self, action: Action, now: float) -> None:
        match action:
            case Grant(request_id):
                self._turnstile.tickets[request_id].grant(now)
            case Refuse():
                self._refuse(action)
            case Start(model):
                self._tasks.operate(self._entries[model], self._operations.start)
            case CancelStart(model):
                self._tasks.operate(self._entries[model], partial(self._operations.stop, force=True))
            case Stop(model, force):
                self._tasks.operate(self._entries[model], partial(self._operations.stop, force=force))
            case Changed():
                self._changed(action)
            case WakeAt(at):
                self._wake_at(at)

    def _refuse(self, action: Refuse) -> None:
        ticket = self._turnstile.tickets.pop(action.request_id, None)
        if ticket is not None:
            ticket.refuse(error_for(action))
            self._metrics.count("gateway_rejected_total", model=ticket.model, why=action.code)

    def _wake_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0.0, at - self.now())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._dispatch, Tick())

    def _changed(self, change: Changed) -> None:
        entry = self._entries[change.model]
        entry.changed_at = time.time()
        entry.progress = None
        self._costs.changed(change, self.now())
        level = logging.WARNING if change.state is State.FAILED else logging.INFO
        logger.log(level, "%s is %s%s", entry.id, change.state, f": {change.reason}" if change.reason else "")
        before, entry.state = entry.state, change.state
        if change.state is State.STARTING:
            entry.loading_since = self.now()
        if change.state is State.READY and before is not State.DRAINING:
            entry.ready_at = entry.heard_at = self.now()
            entry.suspected_at = math.inf
            self._watch(entry)
        elif change.state in (State.STOPPING, State.FAILED, State.STOPPED):
            self._unwatch(entry)
            if not entry.control.managed:
                self._tasks.operate(entry, self._await_return)
            elif not entry.control.available and change.state is not State.STOPPING:
                self._await_supervisor(entry)
        self._publish(entry, change.state, change.reason)

    def _publish(self, entry: Entry, state: State, reason: str | None = None) -> None:
        event: dict[str, Any] = {"model_id": entry.id, "state": state.value, "at": round(time.time(), 3)}
        if reason:
            event["reason"] = reason
        if entry.progress is not None:
            event |= {"phase": entry.progress.phase, "progress": entry.progress.fraction}
        self.events.publish(event)
        for ticket in self._turnstile.tickets.values():
            if not ticket.granted:
                ticket.tell()

    # ------------------------------------------------------------ for those who carry it out

    def progressed(self, entry: Entry, progress: Progress) -> None:
        """A start says how far it is."""
        if progress != entry.progress:
            entry.progress = progress
            self._publish(entry, State.STARTING)

    def resident_on(self, device: DeviceMemory, *, but: Entry | None = None) -> list[str]:
        """Those that hold memory of the device, or may still do."""
        gone = (State.STOPPED, State.FAILED)
        there = [entry for entry in self._entries.values() if entry.device is device and entry is not but]
        return [entry.id for entry in there if self.view(entry.id).state not in gone]

    def report(self, event: Event) -> None:
        """How something ended, or what was learnt on the way."""
        self._dispatch(event)

    # ------------------------------------------------------------ does it live?

    def _watch(self, entry: Entry) -> None:
        self._unwatch(entry)
        entry.watcher = self._tasks.spawn(self._watched(entry))

    def _unwatch(self, entry: Entry) -> None:
        if entry.watcher is not None and entry.watcher is not asyncio.current_task():
            entry.watcher.cancel()
        entry.watcher = None

    async def _watched(self, entry: Entry) -> None:
        while True:
            try:
                reason = await entry.control.watch(lambda: entry.heard_at)
            except Exception:  # an engine that nobody watches would never be missed
                logger.exception("%s: watching it failed", entry.id)
                await asyncio.sleep(SUPERVISOR_POLL_S)
            else:
                self._dispatch(Died(entry.id, reason))
                return

    async def _await_return(self, entry: Entry) -> None:
        """Somebody else runs this engine: all there is to do is to see it come back."""
        await entry.control.start(lambda _: None)
        self._dispatch(Started(entry.id))

    async def _look_again(self, entry: Entry) -> None:
        """A request has come for an engine of somebody else's that was away: it may be back."""
        if await self._seen(entry) == "answers" and self.view(entry.id).state is State.FAILED:
            self._dispatch(Started(entry.id))

    def _await_supervisor(self, entry: Entry) -> None:
        if entry.scout is None or entry.scout.done():
            entry.scout = self._tasks.spawn(self._scouted(entry))

    async def _scouted(self, entry: Entry) -> None:
        """Nothing can be asked of this model before its supervisor is there; then, see what runs."""
        while True:
            await asyncio.sleep(SUPERVISOR_POLL_S)
            condition = await self._seen(entry)
            if entry.control.available:
                break
        logger.info("%s: its supervisor is there", entry.id)
        if self.view(entry.id).state not in (State.STOPPED, State.FAILED):
            return
        if condition != "ended":
            self._dispatch(Found(entry.id, FOUND[condition]))
        elif entry.preload:
            self._dispatch(LoadAsked(entry.id))
        self._dispatch(Tick())
