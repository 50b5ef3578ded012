"""The owner's side of its workers: starts them, hears them, and ends them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.services import Services
from gateway.config import Registry
from gateway.tickets import Begun
from gateway.workers import channel
from gateway.workers.errors import understood
from gateway.workers.figures import Incoming
from gateway.workers.leases import Leases
from gateway.workers.owned import Owned, Story, Workers

logger = logging.getLogger("gateway.workers")

AGAIN_S: Final = 0.5
AGAIN_MOST_S: Final = 30.0
LIVED_S: Final = 60.0
"""One that lived so long has not failed at once."""
UNEVEN: Final = 1
"""So many more connections than a worker the owner may have without giving it some."""
TOLD_S: Final = 0.5
SECOND_LOOK_S: Final = 0.1
LOOK_S: Final = 5.0
SILENT_S: Final = 10.0
"""A worker that says nothing for so long hangs, and what it was lent with it."""
LAST_S: Final = 0.05
END_S: Final = 2.0
"""So much longer than an answer may take at the end, a worker is waited for."""
_SHOW_FIGURES: Final = ("/metrics", "/v1/models")

Make = Callable[..., asyncio.BaseProtocol]
"""Makes a connection of the server's; ``story`` says what a worker knows of it."""


class Member:
    """One worker, from the start of its process to its end."""

    def __init__(self, crew: Crew, end: socket.socket) -> None:
        self._crew = crew
        self.figures = Incoming(crew.services.metrics)
        self.gone = asyncio.Event()
        self.ready = False
        self._asked: dict[int, asyncio.Future[None]] = {}
        self._number = 0
        self._moved = 0  # connections that went there, less those that came, since it said how many it has
        self.channel = channel.Channel(end, self)

    def told(self, message: channel.Message, data: bytes, passed: int | None) -> None:
        crew, leases = self._crew, self._crew.leases
        match message["is"]:
            case "want":
                leases.want(self, message["model"], message["places"])
            case "return":
                leases.given_back(
                    self,
                    message["model"],
                    message["places"],
                    message["used_at"],
                    recalled=message["recalled"],
                )
            case "tick":
                self.figures.add(message["figures"])
                self._moved = 0
                leases.worked(self, message["models"])
                if (asked := self._asked.pop(message["asked"], None)) is not None and not asked.done():
                    asked.set_result(None)
            case "suspect":
                leases.suspect(
                    message["model"], message["reason"], message["heard"], silent=message["silent"]
                )
            case "connection":
                self._moved -= 1
                crew.adopt(passed, Story(data, missed=message["missed"]))
            case "begun":
                self._moved -= 1
                crew.adopt(passed, self._begun(message, data))
            case "ready":
                self.ready = True
                crew.is_ready()

    def _begun(self, said: channel.Message, data: bytes) -> Story:
        ticket = self._crew.leases.handed_on(self, said["model"], said["place"], said["since"])
        if ticket is None:
            return Story(data)
        ticket.visit()
        begun = Begun(ticket, said["url"], understood(said["error"]), said["sent"], said["first_token"])
        return Story(data, missed=said["model"], begun=begun, size=said["size"], known=said["known"])

    def alone(self) -> None:
        self._crew.leases.gone(self)
        self.figures.gone()
        for asked in self._asked.values():
            asked.cancel()
        self.gone.set()

    async def fresh(self, timeout_s: float = TOLD_S) -> bool:
        """Return when it has said what it counted until now. False: it did not answer."""
        self._number += 1
        asked = self._asked[self._number] = asyncio.get_running_loop().create_future()
        self.channel.send({"is": "tell", "asked": self._number})
        await asyncio.wait([asked], timeout=timeout_s)
        if not asked.done():
            await asyncio.sleep(SECOND_LOOK_S)  # it may be this process that stood still
        self._asked = {number: other for number, other in self._asked.items() if other is not asked}
        return asked.done()

    def give(self, model: str, url: str, places: list[int]) -> None:
        self.channel.send({"is": "give", "model": model, "url": url, "places": places})

    def recall(self, model: str) -> None:
        self.channel.send({"is": "recall", "model": model})

    @property
    def connections(self) -> int:
        """Of clients, there now."""
        return self.figures.connections + self._moved

    def take(self, descriptor: int) -> None:
        """A client's connection goes on there."""
        self._moved += 1
        self.channel.send({"is": "connection"}, passed=descriptor)


class Crew:
    """All workers. ``begin`` once the server listens; ``wind_down`` as it begins to stop; ``end`` before what
    they need ends."""

    services: Services
    leases: Leases
    _make: Make
    _own: Callable[[], int]

    def __init__(self, registry: Registry, listener: socket.socket, count: int, drain_s: float) -> None:
        self._registry = registry
        self._listener = listener
        self._count = count
        self._drain_s = drain_s
        self._members: dict[Member, asyncio.subprocess.Process] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._adopting: set[asyncio.Task[Any]] = set()
        self._end_at = 0.0
        self._own = lambda: 0
        self.ending = False

    @property
    def connections(self) -> int:
        """Of clients, at all workers."""
        return sum(member.figures.connections for member in self._members)

    def begin(self, services: Services, make: Make, own: Callable[[], int]) -> None:
        """Start them. They join as they become ready. ``own``: how many connections the owner has."""
        self.services, self.leases, self._make, self._own = services, Leases(services.manager), make, own
        services.metrics.sampled_by(self._sample)
        # The server closes its own when it stops; a worker may have to be started until then.
        self._listener = self._listener.dup()
        for _ in range(self._count):
            self._spawn(self._tasks, self._kept())

    def wind_down(self) -> None:
        """Let them finish what they have begun."""
        self.ending = True
        self._end_at = time.monotonic() + self._drain_s
        self._listener.close()  # whoever comes now is refused, not left waiting
        for member in self._members:
            member.channel.send({"is": "drain"})

    async def end(self) -> None:
        """Return when the last one has ended, and all that it counted is here."""
        self.ending = True
        waiting = [asyncio.create_task(member.gone.wait()) for member in self._members]
        if waiting:
            await asyncio.wait(waiting, timeout=max(0.0, self._end_at - time.monotonic()) + END_S)
        while self._own() and time.monotonic() < self._end_at:
            await asyncio.sleep(LAST_S)  # a worker has passed something on at its end
        self.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._adopting, return_exceptions=True)

    def kill(self) -> None:
        """End what still runs at once."""
        for process in self._members.values():
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)

    def _sample(self) -> None:
        metrics = self.services.metrics
        metrics.gauge("gateway_workers", sum(member.ready for member in self._members))
        for model, places in self.leases.lent().items():
            metrics.gauge("gateway_places_lent", places, model=model)

    def is_ready(self) -> None:
        if sum(member.ready for member in self._members) == self._count:
            logger.info("%d processes answer", self._count + 1)

    # ------------------------------------------------------------ processes

    async def _kept(self) -> None:
        """One worker after the other, for as long as the gateway runs."""
        again_s = AGAIN_S
        while not self.ending:
            began = time.monotonic()
            status = await self._one()
            if self.ending:
                return
            again_s = AGAIN_S if time.monotonic() - began >= LIVED_S else min(2 * again_s, AGAIN_MOST_S)
            self.services.metrics.count("gateway_worker_ends_total")
            logger.warning("a worker ended with %d: another one starts in %g s", status, again_s)
            await asyncio.sleep(again_s)

    async def _one(self) -> int:
        ours, theirs = channel.pair()
        command = [
            sys.executable,
            "-m",
            "gateway.workers",
            str(self._listener.fileno()),
            str(theirs.fileno()),
        ]
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(self._listener.fileno(), theirs.fileno()),
                start_new_session=True,  # Ctrl-C is for the owner, who tells them
            )
        member = Member(self, ours)
        self._members[member] = process
        member.channel.send({"is": "hello"}, self._registry.model_dump_json().encode())
        if self.ending:
            member.channel.send({"is": "drain"})
        watching = asyncio.create_task(self._watched(member))
        try:
            status = await process.wait()
            await member.gone.wait()
            return status
        finally:
            watching.cancel()
            member.channel.close()
            del self._members[member]

    async def _watched(self, member: Member) -> None:
        """One that hangs would keep its places for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            if member.ready and not await member.fresh(SILENT_S):
                logger.warning("a worker has not answered for %g s: it is ended", SILENT_S)
                with contextlib.suppress(ProcessLookupError):
                    self._members[member].send_signal(signal.SIGKILL)
                return

    # ------------------------------------------------------------ clients

    def adopt(self, descriptor: int | None, story: Story) -> None:
        """A worker has passed a client's connection on."""
        if descriptor is None:
            logger.warning("a client's connection was lost on its way here: too many files are open")
            story.let_go()
            return
        client = socket.socket(fileno=descriptor)
        client.setblocking(False)
        self._spawn(self._adopting, self._adopted(client, story))

    def worth_it(self, model: str) -> bool:
        """Whether a worker has fewer connections than there are here, and may be lent places of the model."""
        return self._uneven and self.leases.possible(model)

    @property
    def _uneven(self) -> bool:
        return any(member.ready and member.connections + UNEVEN < self._own() for member in self._members)

    def take(self, descriptor: int) -> bool:
        """The worker with the fewest connections gets one more. False where that is of no use now."""
        if self.ending or not self._uneven or not self.leases.calm:
            return False
        there = [member for member in self._members if member.ready and not member.channel.busy]
        if there:
            min(there, key=lambda member: member.connections).take(descriptor)
        return bool(there)

    async def _adopted(self, client: socket.socket, story: Story) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(partial(self._make, story=story), client)
        except OSError as error:
            logger.info("a client's connection could not be taken over: %s", error)
            story.let_go()

    def _spawn(self, kept: set[asyncio.Task[Any]], work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        kept.add(task)
        task.add_done_callback(partial(_done, kept))

    # ------------------------------------------------------------ figures

    def around(self, app: ASGIApp) -> ASGIApp:
        """The application, whose figures are complete when it shows them, and whose workers end before it."""

        async def surrounded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await app(scope, partial(self._before_the_end, receive), send)
                return
            if scope["type"] == "http" and scope["path"].startswith(_SHOW_FIGURES):
                await asyncio.gather(
                    *(member.fresh() for member in self._members if not member.gone.is_set())
                )
            await app(scope, receive, send)

        return surrounded

    async def _before_the_end(self, receive: Receive) -> Message:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            await self.end()
        return message


def _done(kept: set[asyncio.Task[Any]], task: asyncio.Task[Any]) -> None:
    kept.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("taking care of workers failed", exc_info=error)


def owned(*arguments: Any, workers: Workers, story: Story | None = None, **more: Any) -> Owned:
    """A connection at the owner. ``story``: of one that a worker has passed on."""
    connection = Owned(*arguments, **more)
    connection.belong_to(workers, story)
    return connection
