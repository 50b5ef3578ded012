"""A client's connection at the owner of workers: accepted here, or passed on by one of them.

It goes to a worker when its next requests may be answered there and that is good for both: after one that
took the owner's own fast path, and after one for which a worker only lacked a place.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from gateway.connections import Connection
from gateway.fastpath.passage import Passage
from gateway.tickets import Begun

_FLUSHED_S: Final = 0.005


class Workers(Protocol):
    """Where connections may go."""

    @property
    def ending(self) -> bool: ...
    def worth_it(self, model: str) -> bool:
        """Whether a worker has fewer connections than there are here, and may be lent places of the model."""
        ...

    def take(self, descriptor: int) -> bool:
        """One of them gets it; False: not now."""
        ...


@dataclass(frozen=True, slots=True)
class Story:
    """What a worker knows of a connection. ``data`` was read from it. ``missed``: of this model, it had no
    place; "": that was not the reason.

    ``begun``: what was done for the request that is the first ``size`` bytes, and by what it is ``known``.
    """

    data: bytes
    missed: str = ""
    begun: Begun | None = None
    size: int = 0
    known: dict[str, Any] = field(default_factory=dict)

    def let_go(self) -> None:
        """The connection is lost: nobody goes on with it."""
        if self.begun is not None:
            self.begun.ticket.close()


class Owned(Connection):
    """Made by ``crew.owned``. No ``__init__`` of its own: mypyc mixes up what is passed on with stars."""

    _workers: Workers
    _story: Story | None
    _missed: str

    def belong_to(self, workers: Workers, story: Story | None) -> None:
        """To be called once, before it has a transport."""
        self._workers = workers
        self._story = story
        self._missed = "" if story is None else story.missed

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._story is not None:
            # Not within this call: the transport does not read yet, and could not be told to stop.
            self.loop.call_soon(self._begin_anew)

    def data_received(self, data: bytes) -> None:
        if self._story is not None:
            self._begin_anew()
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._begin_anew()  # where it is noted that its client left
        super().connection_lost(exc)

    def _begin_anew(self) -> None:
        story, self._story = self._story, None
        if story is None:
            return
        first, rest = story.data[: story.size], story.data[story.size :]
        if story.begun is not None:
            ordinary, fast = self.app_state, self._fast
            self.app_state, self._fast = {**ordinary, "begun": story.begun, **story.known}, None
            super().data_received(first)
            self.app_state, self._fast = ordinary, fast
        if rest:
            super().data_received(rest)
        if self._workers.ending:
            self.shutdown()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._missed and self._workers.worth_it(self._missed):
            self.loop.call_soon(self._leave)

    def over(self, passage: Passage) -> None:
        super().over(passage)
        if self._workers.worth_it(passage.model):
            self.loop.call_soon(self._leave)

    def _leave(self) -> None:
        if self.transport.is_closing() or self.pipeline or not self._between_requests():
            return
        if self.transport.get_write_buffer_size():
            self.loop.call_later(_FLUSHED_S, self._leave)
        elif self._workers.take(self.transport.get_extra_info("socket").fileno()):
            self.transport.close()
