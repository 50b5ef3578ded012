"""Messages between the owner and one worker: a line of JSON, bytes behind it, and perhaps an open connection.

Each message is one packet of a Unix socket, so a connection and the bytes that were read from it come
together. A large one is put into a file without a name, which is passed on in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import tempfile
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, Protocol

from pydantic_core import from_json, to_json

logger = logging.getLogger("gateway.workers")

INLINE_BYTES: Final = 32_768
MOST_BYTES: Final = 16_777_216
"""A registry, or a request, is never so large."""
_IN_A_ROW: Final = 64
_INLINE, _IN_A_FILE = b"=", b">"

Message = Mapping[str, Any]
"""``is`` says of which kind it is."""


class Listener(Protocol):
    def told(self, message: Message, data: bytes, passed: int | None) -> None:
        """A message has come. ``passed`` is the descriptor of a connection, now the receiver's to close."""
        ...

    def alone(self) -> None:
        """The other side has ended. Nothing comes any more."""
        ...


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends. Raises OSError where there is nothing of the kind."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Channel:
    """One end. ``send`` never blocks: what the other side does not take yet waits here."""

    def __init__(self, end: socket.socket, listener: Listener) -> None:
        end.setblocking(False)
        self._end = end
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[bytes, list[int]]] = deque()
        self._open = True
        self._loop.add_reader(end.fileno(), self._readable)

    def send(self, message: Message, data: bytes = b"", passed: int | None = None) -> None:
        """Tell the other side. ``passed`` may be closed as soon as this returns."""
        if not self._open:
            return
        packet = to_json(message) + b"\n" + data
        descriptors = [] if passed is None else [os.dup(passed)]
        if len(packet) > INLINE_BYTES:
            descriptors.append(_file_with(packet))
            packet = _IN_A_FILE
        else:
            packet = _INLINE + packet
        self._waiting.append((packet, descriptors))
        if len(self._waiting) == 1:
            self._write()

    def close(self) -> None:
        """What was not taken yet is lost."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._end.fileno())
        self._loop.remove_writer(self._end.fileno())
        while self._waiting:
            _close(self._waiting.popleft()[1])
        self._end.close()

    @property
    def busy(self) -> bool:
        """Whether something waits to be taken."""
        return bool(self._waiting)

    def _write(self) -> None:
        while self._waiting:
            packet, descriptors = self._waiting[0]
            try:
                socket.send_fds(self._end, [packet], descriptors)
            except BlockingIOError:
                self._loop.add_writer(self._end.fileno(), self._write)
                return
            except OSError:
                self._ended()
                return
            self._waiting.popleft()
            _close(descriptors)
        self._loop.remove_writer(self._end.fileno())

    def _readable(self) -> None:
        for _ in range(_IN_A_ROW):
            if not self._open:
                return
            try:
                packet, descriptors, _, _ = socket.recv_fds(self._end, INLINE_BYTES + 1, 2)
            except BlockingIOError:
                return
            except OSError:
                packet, descriptors = b"", []
            if not packet:
                self._ended()
                return
            self._receive(packet, descriptors)

    def _receive(self, packet: bytes, descriptors: list[int]) -> None:
        try:
            whole = packet[1:] if packet[:1] == _INLINE else _content(descriptors.pop())
            line, _, data = whole.partition(b"\n")
            message = from_json(line)
            passed = descriptors.pop() if descriptors else None
        except (OSError, ValueError, IndexError):  # no descriptor was left for it, for instance
            _close(descriptors)
            logger.exception("a message between processes was lost")
            return
        try:
            self._listener.told(message, data, passed)
        except Exception:  # nobody above would see it, and the others must not suffer
            logger.exception("a message between processes could not be dealt with")

    def _ended(self) -> None:
        if self._open:
            self.close()
            self._listener.alone()


def _file_with(content: bytes) -> int:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        return os.dup(file.fileno())


def _content(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read(MOST_BYTES)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    descriptors.clear()
