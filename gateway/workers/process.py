"""One worker: the fast path alone, on the listening socket that it shares with the owner."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from uvicorn.loops.auto import auto_loop_factory

from gateway import capabilities, telemetry
from gateway.api.streams import shutting_down
from gateway.auth import Keys, ThisMachine
from gateway.config import ModelSpec, Registry
from gateway.connections import Patience
from gateway.errors import GatewayError
from gateway.fastpath.entry import FastPath
from gateway.fastpath.passage import Passage
from gateway.journey import FigureBook
from gateway.logs import AccessLog, configure_logging
from gateway.main import envelope_of, pushing, scenario_book
from gateway.metrics import Metrics
from gateway.preparing import Preparer
from gateway.routing import Routing
from gateway.scenarios import ScenarioBook
from gateway.schemas import Conversation, Prompt
from gateway.settings import Settings
from gateway.tickets import Begun
from gateway.upstream import ENGINES
from gateway.upstream.transport import EngineHttp, open_client
from gateway.workers.channel import Channel, Message
from gateway.workers.client import ClientConnection
from gateway.workers.errors import told
from gateway.workers.figures import CONNECTIONS, Outgoing
from gateway.workers.places import Places

logger = logging.getLogger("gateway.workers")

TICK_S: Final = 0.2
FLUSHED_S: Final = 1.0
BACKLOG: Final = 2048


def settle() -> None:
    """What is there now stays for good: the collector need not look at it with every few hundred requests.

    Requests leave it nothing, tasks in the background a little: that lies about until it is so many objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_000, 10, 10)


def main(arguments: Sequence[str]) -> int:
    """``python -m gateway.workers LISTENER CHANNEL``: two descriptors that the owner has left open."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the owner's word that counts
    listener, end = (socket.socket(fileno=int(text)) for text in arguments)
    settings = Settings()
    configure_logging(settings.log_level, settings.log_format)
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(_run(settings, listener, end))
    return 0


async def _run(settings: Settings, listener: socket.socket, end: socket.socket) -> None:
    inbox = Inbox()
    channel = Channel(end, inbox)
    registry = Registry.model_validate_json(await inbox.registry)
    metrics = Metrics(keep_values=settings.statsd_host is not None)
    async with telemetry.running(metrics, None), open_client(kind="fast") as http:
        assert isinstance(http, EngineHttp)  # noqa: S101 - of this kind it is
        worker = Worker(settings, registry, metrics, http, channel)
        inbox.worker = worker
        if inbox.drained:
            worker.drain()
        await worker.run(listener)


class Inbox:
    """Hears the owner. Before there is a worker, only the registry comes, or its end."""

    def __init__(self) -> None:
        self.registry: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.worker: Worker | None = None
        self.drained = False

    def told(self, message: Message, data: bytes, passed: int | None) -> None:
        if message["is"] == "hello":
            self.registry.set_result(data)
        elif self.worker is not None:
            self.worker.told(message, passed)
        elif message["is"] == "drain":
            self.drained = True

    def alone(self) -> None:
        # Nobody is left who knows what may run. The kernel closes what is open.
        os._exit(1)


class _Desk:
    """What is asked before there is a place: as ``line.Line``, for the requests that are answered here."""

    def __init__(
        self, registry: Registry, scenarios: ScenarioBook, metrics: Metrics, places: Places, http: EngineHttp
    ) -> None:
        self.routing = Routing(registry, places)
        self.figures = FigureBook(metrics)
        self.engines = {kind: make(http) for kind, make in ENGINES.items()}
        self.preparer = Preparer(scenarios, self._able)
        self._places = places

    def _able(self, spec: ModelSpec) -> dict[str, bool | None]:
        return capabilities.of(spec, self.engines[spec.engine].capabilities(self._places.url(spec.id)))

    async def count_tokens(self, spec: ModelSpec, prompt: Prompt | Conversation) -> int | None:
        """Whoever asks has a place, so the engine is in."""
        url = self._places.url(spec.id)
        if url is None or not isinstance(prompt, Prompt):
            return None
        try:
            return await self.engines[spec.engine].count_tokens(url, prompt.text)
        except GatewayError:
            return None


@dataclass(frozen=True, slots=True)
class _Means:
    settings: Settings
    metrics: Metrics
    scenarios: ScenarioBook
    generations: _Desk
    manager: Places


class Worker:
    """All that it has, and what is done with what the owner says."""

    def __init__(
        self, settings: Settings, registry: Registry, metrics: Metrics, http: EngineHttp, channel: Channel
    ) -> None:
        keys = Keys.from_settings(settings)
        open_to_all = keys.asked_for or settings.allow_anonymous
        self._machine = None if open_to_all else ThisMachine(settings.host, settings.web_pages)
        self.places = Places(channel.send)
        scenarios = scenario_book(registry)
        desk = _Desk(registry, scenarios, metrics, self.places, http)
        means = _Means(settings, metrics, scenarios, desk, self.places)
        self._log = AccessLog()
        engines = pushing(desk.engines)
        self.fast = FastPath(means, http, engines, keys, self._machine, envelope_of, self._log)
        self.patience = Patience.of(settings)
        self.draining = False
        self._drain_s = settings.drain_s
        self._channel = channel
        self._figures = Outgoing(metrics)
        self._clients: set[ClientConnection] = set()
        self._open = metrics.level(CONNECTIONS)
        self._drained = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._taking: set[asyncio.Task[Any]] = set()

    async def run(self, listener: socket.socket) -> None:
        """Answer until told to end."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.drain)
        if not self.draining:
            make = partial(ClientConnection, self)
            self._server = await loop.create_server(make, sock=listener, backlog=BACKLOG)
        settle()
        ticking = loop.create_task(self._ticks())
        self._channel.send({"is": "ready"})
        await self._drained.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSHED_S):
                while self._clients:  # what was written last is on its way
                    await asyncio.sleep(FLUSHED_S / 100)
        ticking.cancel()
        self._log.flush()
        self._tick(None)
        while self._channel.busy:
            await asyncio.sleep(TICK_S / 20)
        self._channel.close()

    def told(self, message: Message, passed: int | None) -> None:
        """The owner has said something."""
        match message["is"]:
            case "give":
                self.places.give(message["model"], message["url"], message["places"])
                if self.draining:
                    self.places.recall_all()
            case "recall":
                self.places.recall(message["model"])
            case "tell":
                self._tick(message["asked"])
            case "drain":
                self.drain()
            case "connection" if passed is not None:
                self._take_back(passed)

    def _take_back(self, descriptor: int) -> None:
        client = socket.socket(fileno=descriptor)
        client.setblocking(False)
        if self.draining:
            client.close()
            return
        loop = asyncio.get_running_loop()
        taking = loop.create_task(
            loop.connect_accepted_socket(lambda: ClientConnection(self, again=True), client)
        )
        self._taking.add(taking)
        taking.add_done_callback(self._taken)

    def _taken(self, taking: asyncio.Task[Any]) -> None:
        self._taking.discard(taking)
        if not taking.cancelled() and (error := taking.exception()) is not None:
            logger.info("a client's connection could not be taken back: %s", error)

    # ------------------------------------------------------------ figures

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._tick(None)

    def _tick(self, asked: int | None) -> None:
        self._open.set(len(self._clients))
        models, figures = self.places.tick(), self._figures.news()
        if models or figures or asked is not None:
            self._channel.send({"is": "tick", "models": models, "figures": figures, "asked": asked})

    # ------------------------------------------------------------ its end

    def drain(self) -> None:
        """Take nothing new, finish what is under way, and end."""
        if self.draining:
            return
        self.draining = True
        if self._server is not None:
            self._server.close()
        self.places.recall_all()
        for client in [*self._clients]:
            client.finish()
        asyncio.get_running_loop().call_later(self._drain_s, self._end)
        self._look_whether_done()

    def _end(self) -> None:
        """Time is up."""
        self.fast.end(shutting_down())
        for client in [*self._clients]:
            client.close()
        self._drained.set()

    def _look_whether_done(self) -> None:
        if self.draining and not self._clients:
            self._drained.set()

    # ------------------------------------------------------------ for clients' connections

    def opened(self, connection: ClientConnection) -> None:
        self._clients.add(connection)

    def closed(self, connection: ClientConnection) -> None:
        self._clients.discard(connection)
        self._look_whether_done()

    def pass_on(self, descriptor: int, data: bytes, said: Mapping[str, Any]) -> None:
        self._channel.send({"is": "connection", **said}, data, descriptor)

    def pass_on_begun(self, descriptor: int, data: bytes, size: int, passage: Passage, begun: Begun) -> None:
        message = {
            "is": "begun",
            "model": begun.ticket.model,
            "place": begun.ticket.id,
            "since": self.places.since(begun.ticket),
            "url": begun.url,
            "error": told(begun.error),
            "sent": begun.sent,
            "first_token": begun.first_token,
            "known": passage.identity(),
            "size": size,
        }
        if self._channel.send(message, data, descriptor):
            self.places.hand_on(begun.ticket)
        else:
            begun.ticket.close()
