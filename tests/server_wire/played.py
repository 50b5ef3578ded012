"""An engine on TGI's routes that says what a test has written down, each piece by itself."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from server_wire.raw import DEADLINE_S, taken


class Dropped(Exception):
    """In place of a piece: the connection ends here."""


Piece = bytes | type[Dropped]


def token(text: str, index: int = 1, **more: Any) -> bytes:
    """The event of a token in the middle, as TGI writes it."""
    said = {"id": 7, "text": text, "logprob": -0.5, "special": False, **more}
    return event({"index": index, "token": said, "generated_text": None, "details": None})


def last(text: str, whole: str, reason: str = "length", **more: Any) -> bytes:
    details = {"finish_reason": reason, "generated_tokens": 9, "seed": None, "input_length": 4}
    said = {"id": 7, "text": text, "logprob": -0.5, "special": False, **more}
    return event({"index": 9, "token": said, "generated_text": whole, "details": details})


def event(data: object) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


class Engine(ThreadingHTTPServer):
    """``scripts`` by the name that is in the prompt, between two ``@``. It counts tokens when it may."""

    daemon_threads = True

    def __init__(self, scripts: Mapping[str, tuple[Piece, ...]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scripts = scripts
        self.faults: list[BaseException | None] = []
        self.counting, self.may_count = threading.Event(), threading.Event()
        self.may_count.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients leave as they like. All else is a fault in a test."""
        if not isinstance(error := sys.exc_info()[1], ConnectionError):
            self.faults.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Engine

    def do_GET(self) -> None:
        self._answer(b"{}")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/tokenize":
            self.server.counting.set()
            self.server.may_count.wait(DEADLINE_S)
            self._answer(json.dumps([{"id": 1, "text": "x", "start": 0, "stop": 1}] * 5).encode())
        else:
            self._play(self.server.scripts[asked["inputs"].split("@")[1]])

    def _play(self, script: tuple[Piece, ...]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in script:
            if isinstance(piece, type):
                self.close_connection = True
                return
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            # What comes next is then read by itself.
            taken([self.connection])
        self.wfile.write(b"0\r\n\r\n")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@contextmanager
def playing(scripts: Mapping[str, tuple[Piece, ...]]) -> Iterator[Engine]:
    """An engine that listens."""
    engine = Engine(scripts)
    threading.Thread(target=engine.serve_forever, daemon=True).start()
    try:
        yield engine
    finally:
        engine.shutdown()
        engine.server_close()
    assert not engine.faults, engine.faults
