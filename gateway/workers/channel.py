"""Messages between the owner and one worker: a line of JSON, bytes behind it, and perhaps an open connection.

Each message is one packet of a Unix socket, so a connection and the bytes that were read from it come
together. What is too large for that is put into a file without a name, which is passed on in the same way.

A process that may open no more files gets no descriptors. It still gets the message, so that what the message
gives back is not lost with what it brings.
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
_INLINE, _DATA_IN_A_FILE, _ALL_IN_A_FILE = b"=", b"~", b">"

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

    def send(self, message: Message, data: bytes = b"", passed: int | None = None) -> bool:
        """Tell the other side. ``passed`` may be closed as soon as this returns. False: it cannot be told, as
        the other side has ended, or this process may open no more files."""
        if not self._open:
            return False
        own: list[int] = []
        try:
            packet, own = _packet(to_json(message), data)
            descriptors = own if passed is None else [*own, passed]
            if not self._waiting and self._sent(packet, descriptors):
                _close(own)
                return self._open
            self._waiting.append((packet, [*own, *([] if passed is None else [os.dup(passed)])]))
        except OSError as error:
            _close(own)
            logger.warning("a message between processes could not be sent: %s", error)
            return False
        if len(self._waiting) == 1:
            self._loop.add_writer(self._end.fileno(), self._write)
        return True

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
            if not self._sent(packet, descriptors) or not self._open:
                return
            self._waiting.popleft()
            _close(descriptors)
        self._loop.remove_writer(self._end.fileno())

    def _sent(self, packet: bytes, descriptors: list[int]) -> bool:
        """False: the other side has to read first."""
        try:
            socket.send_fds(self._end, [packet], descriptors)
        except BlockingIOError:
            return False
        except OSError:
            self._ended()
        return True

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
            line, data = _taken_apart(packet, descriptors)
            message = from_json(line)
        except (OSError, ValueError) as error:
            _close(descriptors)
            logger.warning("a message between processes was lost: %s", error)
            return
        passed = descriptors.pop() if descriptors else None
        try:
            self._listener.told(message, data, passed)
        except Exception:  # nobody above would see it, and the others must not suffer
            logger.exception("a message between processes could not be dealt with")

    def _ended(self) -> None:
        if self._open:
            self.close()
            self._listener.alone()


def _packet(line: bytes, data: bytes) -> tuple[bytes, list[int]]:
    """What is sent, and the files that go with it."""
    if len(line) + len(data) < INLINE_BYTES:
        return _INLINE + line + b"\n" + data, []
    if len(line) < INLINE_BYTES:
        return _DATA_IN_A_FILE + line, [_file_with(data)]
    return _ALL_IN_A_FILE, [_file_with(line + b"\n" + data)]


def _taken_apart(packet: bytes, descriptors: list[int]) -> tuple[bytes, bytes]:
    """Line and data. What was passed is left in ``descriptors``. Raises ValueError where all is lost."""
    kind, rest = packet[:1], packet[1:]
    if kind == _DATA_IN_A_FILE:
        return rest, _content(descriptors.pop(0)) if descriptors else b""
    if kind == _ALL_IN_A_FILE:
        if not descriptors:
            raise ValueError("this process may open no more files")
        rest = _content(descriptors.pop(0))
    line, _, data = rest.partition(b"\n")
    return line, data


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
