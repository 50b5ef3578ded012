"""An engine that plays a script: whatever bytes a real one might send, byte for byte, on real sockets."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
_HEALTHY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}"
DEADLINE_S = 20.0

Step = bytes | str | float
"""Bytes to send; PAUSE (so long that the next bytes come apart from these), seconds to say nothing for,
GATE (until the test opens it), HOLD (until the client leaves), RESET, CLOSE, or DIE."""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def token(number: int, text: str = " word") -> bytes:
    """One token as TGI writes it."""
    said = {"id": number, "text": text, "logprob": -0.5, "special": False}
    return event({"index": number, "token": said, "generated_text": None, "details": None})


def last(number: int, text: str = "words", **details: object) -> bytes:
    said = {"id": number, "text": " end", "logprob": -0.5, "special": False}
    more = {"finish_reason": "length", "generated_tokens": number, "input_length": 7, "seed": None, **details}
    return event({"index": number, "token": said, "generated_text": text, "details": more})


def event(body: object) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def failure(text: str = "CUDA", kind: str = "generation") -> bytes:
    return event({"error": text, "error_type": kind})


def answer(status: str, body: bytes = b"", kind: str = "application/json", *lines: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


def whole(count: int = 3) -> bytes:
    """A good answer to any of the routes that are asked here, in one piece."""
    events = [chunk(token(n)) for n in range(1, count)]
    return b"".join([STREAM, *events, chunk(last(count)), END])


@dataclass
class Scripted:
    """Answers probes; plays ``scripts`` for requests, one after the other, and the last one ever again."""

    scripts: list[Sequence[Step]] = field(default_factory=lambda: [[whole()]])
    asked: int = 0
    left: int = 0
    """How many clients left while the engine held."""
    holds: bool = False
    at: int = 0
    """How many steps have been gone."""
    gate: threading.Event = field(default_factory=threading.Event)
    port: int = 0
    """0: any that is free."""
    dying: bool = False
    """From a DIE on: connections are still taken, and reset, as by a process that is being ended."""

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=512)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def play(self, *scripts: Sequence[Step]) -> None:
        """From now on, and counting anew."""
        self.gate.clear()
        self.dying = False
        self.scripts, self.asked, self.left, self.holds, self.at = list(scripts), 0, 0, False, 0

    def close(self) -> None:
        self.gate.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._hang_up()

    def _hang_up(self) -> None:
        for one in [*self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._open.add(client)
        if self.dying:
            _reset(client)
        try:
            with client, contextlib.suppress(OSError):
                while not self.dying and (head := self._request(client)) and self._answer(client, head):
                    pass
        finally:
            self._open.discard(client)

    def _request(self, client: socket.socket) -> bytes | None:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = client.recv(65536)
            if not piece:
                return None
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        found = re.search(rb"(?i)content-length: (\d+)", head)
        length = int(found[1]) if found else 0
        while len(body) < length:
            body += client.recv(65536)
        return head

    def _answer(self, client: socket.socket, head: bytes) -> bool:
        if not head.startswith(b"POST /generate"):
            client.sendall(_HEALTHY)
            return True
        with self._lock:
            script = self.scripts[min(self.asked, len(self.scripts) - 1)]
            self.asked += 1
        return all(self._step(client, step) for step in script)

    def _step(self, client: socket.socket, step: Step) -> bool:
        self.at += 1
        if isinstance(step, bytes):
            client.sendall(step)
        elif isinstance(step, float):
            threading.Event().wait(step)
        elif step == "PAUSE":
            threading.Event().wait(0.03)  # the rhythm of an engine, not a wait for something to happen
        elif step == "GATE":
            return self.gate.wait(DEADLINE_S)
        elif step == "HOLD":
            self.holds = True
            with contextlib.suppress(OSError):
                client.recv(1)
            self.left += 1
            return False
        else:
            if step == "RESET":
                _reset(client)
            if step == "DIE":
                self.dying = True
                self._hang_up()
            return False
        return True


def _reset(client: socket.socket) -> None:
    """Its end will be a reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
