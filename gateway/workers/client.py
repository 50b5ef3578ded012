"""A client's connection at a worker: requests for which there is a place are answered, all else passes on.

What is passed on is the connection itself, with the bytes that were read of the request. So all that is hard
about HTTP is done in one place, at the owner, and a worker needs none of it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Final, Protocol

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.connections import GRACE_S, MOST_IN_A_ROW, Patience
from gateway.fastpath.entry import FastPath
from gateway.fastpath.heads import Known
from gateway.fastpath.passage import Passage
from gateway.tickets import Begun
from gateway.workers.places import Places
from gateway.workers.reading import head_of, is_complete, may_become_one

logger = logging.getLogger("gateway.connections")

_MOST_WAITING: Final = MOST_IN_A_ROW * HIGH_WATER_LIMIT // 4
"""Bytes of further requests that may come while one is answered."""
_FLUSHED_S: Final = 0.005

_How = tuple[Passage, Begun] | str
"""How a connection is passed on: with a request that was begun here; or with the model of which there was no
place, which is "" when that was not the reason."""


class Worker(Protocol):
    """The process that a connection is in."""

    fast: FastPath
    places: Places
    patience: Patience
    draining: bool

    def opened(self, connection: ClientConnection) -> None: ...
    def closed(self, connection: ClientConnection) -> None: ...
    def pass_on(self, descriptor: int, data: bytes, said: Mapping[str, Any]) -> None:
        """The owner gets the connection, and what was read from it."""
        ...

    def pass_on_begun(self, descriptor: int, data: bytes, size: int, passage: Passage, begun: Begun) -> None:
        """The same with a request, ``size`` bytes of ``data``, that has its place and its first try."""
        ...


class ClientConnection(asyncio.Protocol):
    """See the module. To a passage it is the ``Client``."""

    transport: asyncio.Transport

    def __init__(self, worker: Worker, *, again: bool = False) -> None:
        """``again``: it comes back from the owner, between two requests."""
        self._worker = worker
        self.loop = asyncio.get_running_loop()
        self._waiting = b""  # what has come and belongs to no request that is being answered
        self._request = b""  # the one that is
        self._passage: Passage | None = None
        self._known: tuple[Known, int] | None = (
            None  # the head of the one that is not whole yet, and its size
        )
        self._clock: asyncio.TimerHandle | None = None
        self._again = again
        self._idle_since = 0.0
        self._grace: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None
        self._left = False  # passed on, or closed by us
        self._going: _How | None = None  # once it can

    # ------------------------------------------------------------ what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # it is of a stream socket
        self._worker.opened(self)
        if self._worker.draining:
            self.close()
        elif self._again:
            self._rest()
        else:
            self._clock = self.loop.call_later(self._worker.patience.receive_s, self.close)

    def data_received(self, data: bytes) -> None:
        self._waiting = self._waiting + data if self._waiting else data
        if self._passage is None and self._going is None and not self._left:
            self._look()
        elif len(self._waiting) > _MOST_WAITING:
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        for clock in (self._clock, self._grace, self._sending):
            if clock is not None:
                clock.cancel()
        passage, self._passage = self._passage, None
        if passage is not None:
            passage.left()
        if not self._left and (self._going is not None or self._known is not None):
            self._tell_of_it()
        self._going, self._left = None, True
        self._worker.closed(self)

    def _tell_of_it(self) -> None:
        """The client has left a request behind. The owner counts it, like all that is not answered here."""
        here, there = socket.socketpair()
        with here:
            there.close()
            self._send(here.fileno(), self._going or "")

    def pause_writing(self) -> None:
        if self._passage is not None:
            self._passage.hold()
        if self._sending is None:
            self._sending = self.loop.call_later(self._worker.patience.send_s, self._not_read)

    def resume_writing(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        if self._passage is not None:
            self._passage.go_on()

    # ------------------------------------------------------------ requests

    def _look(self) -> None:
        """Take the first request of what waits, or pass all of it on."""
        data, fast = self._waiting, self._worker.fast
        found = fast.heads.find(data)
        if found is not None:
            if not self._take(*found):
                self._pass_on()
            return
        if self._known is None:
            if not is_complete(data):
                self._wait_for_more(possible=may_become_one(data))
                return
            read = head_of(data)
            known = None if read is None else fast.know(read.url, read.headers, keep_alive=read.keep_alive)
            if read is None or known is None or read.size - read.body_at > HIGH_WATER_LIMIT:
                self._pass_on()
                return
            self._known = known, read.size
        known, size = self._known
        if len(data) < size:
            self._wait_for_more(possible=True)
            return
        body = data[data.find(b"\r\n\r\n") + 4 : size]
        # What comes right behind a request may be the next one or junk: the owner takes them apart.
        if len(data) == size and self._take(known, body):
            fast.heads.learn(data, body, known)
        else:
            self._pass_on()

    def _wait_for_more(self, *, possible: bool) -> None:
        """The rest of a request usually follows at once. If it does not, the owner waits for it."""
        if not possible:
            self._pass_on()
        elif self._grace is None:
            self._grace = self.loop.call_later(GRACE_S, self._pass_on)

    def _take(self, known: Known, body: bytes) -> bool:
        """Begin to answer the request, which is all that waits."""
        self._worker.places.missed = None
        passage = self._worker.fast.take(self, known, body)
        if passage is None:
            return False
        self._request, self._waiting = self._waiting, b""
        self._known = None
        self._no_grace()
        if self._clock is not None and not self._idle_since:
            self._clock.cancel()
            self._clock = None
        self._passage = passage
        if self._worker.draining:
            passage.keep_alive = False
        passage.begin()
        return True

    def opening(self, status: int = 200) -> bytes:
        """The beginning of an answer."""
        return STATUS_LINE[status] + _date(int(time.time()))

    def over(self, passage: Passage) -> None:
        """A passage has written its whole answer."""
        self._passage = None
        if not passage.keep_alive or self._worker.draining:
            self.close()
            return
        self._rest()
        if self._waiting:
            self.loop.call_soon(self._next)

    def _next(self) -> None:
        """A request that came while another one was answered."""
        if self._passage is None and self._going is None and not self._left and self._waiting:
            self.transport.resume_reading()
            self._look()

    # ------------------------------------------------------------ to the owner

    def hand_over(self, passage: Passage, begun: Begun) -> None:
        """A passage could not answer: its request goes on at the owner."""
        self._passage = None
        self._go((passage, begun))

    def _pass_on(self) -> None:
        self._go(self._worker.places.missed or "")

    def _go(self, how: _How) -> None:
        self._no_grace()
        self._going = how
        if not self.transport.is_closing():
            self.transport.pause_reading()
            self._try_to_go()

    def _try_to_go(self) -> None:
        """The owner must not write before the last answer from here has left."""
        how = self._going
        if how is None or self.transport.is_closing():
            return
        if self.transport.get_write_buffer_size():
            self.loop.call_later(_FLUSHED_S, self._try_to_go)
            return
        self._going, self._left = None, True
        self._send(self.transport.get_extra_info("socket").fileno(), how)
        self.transport.close()

    def _send(self, descriptor: int, how: _How) -> None:
        if isinstance(how, tuple):
            data, size = self._request + self._waiting, len(self._request)
            self._worker.pass_on_begun(descriptor, data, size, *how)
        else:
            self._worker.pass_on(descriptor, self._waiting, {"missed": how})

    # ------------------------------------------------------------ clocks

    def _rest(self) -> None:
        """Between two requests. One timer serves many of them."""
        self._idle_since = self.loop.time()
        if self._clock is None:
            self._clock = self.loop.call_later(self._worker.patience.keep_alive_s, self._idled)

    def _idled(self) -> None:
        self._clock = None
        if self._passage is not None or self._going is not None or self._left:
            return  # the end of the answer sets the clock again
        left_s = self._idle_since + self._worker.patience.keep_alive_s - self.loop.time()
        if left_s > 0 or self._waiting:
            self._clock = self.loop.call_later(max(left_s, GRACE_S), self._idled)
        else:
            self.close()

    def _no_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _not_read(self) -> None:
        self._sending = None
        said = "connection cut off: nothing was read from it within %g s"
        logger.warning(said, self._worker.patience.send_s)
        self.transport.abort()

    def finish(self) -> None:
        """The process is to end: what is being answered is answered, and then the connection ends."""
        if self._passage is not None:
            self._passage.keep_alive = False
        elif self._going is None:
            self.close()

    def close(self) -> None:
        if not self._left:
            self._left = True
            self.transport.close()


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    """The line as it stands in every answer of this second."""
    return b"date: %b\r\n" % formatdate(second, usegmt=True).encode()
