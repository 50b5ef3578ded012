"""A client's connection that a worker has passed on: from now on one like any other of the owner's.

It goes back when its next requests may be answered there: after one for which the worker only lacked a
place, and after one that took the owner's own fast path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.connections import Connection
from gateway.fastpath.passage import Passage
from gateway.tickets import Begun

_FLUSHED_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class Story:
    """What a worker knows of a connection. ``data`` was read from it.

    ``begun``: what was done for the request that is the first ``size`` bytes, and by what it is ``known``.
    """

    data: bytes
    home: bool = False
    begun: Begun | None = None
    size: int = 0
    known: dict[str, Any] = field(default_factory=dict)


class Adopted(Connection):
    """``go_home`` is given the descriptor when it may go back; False: not now."""

    def __init__(
        self, *arguments: Any, story: Story, go_home: Callable[[int], bool], ending: bool, **more: Any
    ) -> None:
        super().__init__(*arguments, **more)
        self._story: Story | None = story
        self._go_home = go_home
        self._goes_home = story.home
        self._ending = ending

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Not within this call: the transport does not read yet, and could not be told to stop.
        self.loop.call_soon(self._begin_anew)

    def data_received(self, data: bytes) -> None:
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
        if self._ending:
            self.shutdown()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._goes_home:
            self.loop.call_soon(self._leave)

    def over(self, passage: Passage) -> None:
        super().over(passage)
        self.loop.call_soon(self._leave)

    def _leave(self) -> None:
        if self.transport.is_closing() or self.pipeline or not self._between_requests():
            return
        if self.transport.get_write_buffer_size():
            self.loop.call_later(_FLUSHED_S, self._leave)
        elif self._go_home(self.transport.get_extra_info("socket").fileno()):
            self.transport.close()
