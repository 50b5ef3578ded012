"""A stand-in for a TGI engine in Python alone: ``python -m benchmarks.overhead.guard_source PORT``.

What it costs does not matter: it is not weighed. A request says in its text what it wants: ``tokens=20
rate=50``. Without a rate all tokens come at once.
"""

from __future__ import annotations

import asyncio
import re
import sys

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_WISH = re.compile(rb"tokens=([0-9]+) rate=([0-9]+)")
_TEXT = "The quick brown fox"
_TOKEN = b'data: {"index":%d,"token":{"id":1234,"text":" fox","logprob":-0.125,"special":false},%b}\n\n'
_MORE = b'"generated_text":null,"details":null'
_LAST = (
    b'"generated_text":"%b","details":{"finish_reason":"length","generated_tokens":%d,"seed":null,'
    b'"input_length":12}'
)


class Source(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._data = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n") + 4) > 3:
            length = _LENGTH.search(self._data, 0, end)
            whole = end + (int(length[1]) if length else 0)
            if len(self._data) < whole:
                return
            request, self._data = self._data[:whole], self._data[whole:]
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        path = request.split(b" ", 2)[1]
        wish = _WISH.search(request)
        tokens, rate = (int(wish[1]), int(wish[2])) if wish else (1, 0)
        if path == b"/generate_stream":
            self._write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            self._tokens(1, tokens, 1 / rate if rate else 0.0)
            return
        body = b"{}"
        if path == b"/generate":
            body = b'{"generated_text":"%b"}' % _TEXT.encode()
        elif path == b"/info":
            body = b'{"model_id":"source","max_total_tokens":1000000}'
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._write(head % len(body) + body)

    def _tokens(self, index: int, count: int, pause_s: float) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if not pause_s:
            self._write(b"".join(_chunk(one, count) for one in range(index, count + 1)) + b"0\r\n\r\n")
            return
        self._write(_chunk(index, count) + (b"0\r\n\r\n" if index == count else b""))
        if index < count:
            self._loop.call_later(pause_s, self._tokens, index + 1, count, pause_s)

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)


def _chunk(index: int, count: int) -> bytes:
    end = _LAST % (_TEXT.encode(), count) if index == count else _MORE
    event = _TOKEN % (index, end)
    return b"%x\r\n%b\r\n" % (len(event), event)


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Source(loop), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
