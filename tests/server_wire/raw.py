"""Requests as bytes, and answers taken apart strictly: a byte too many or too few is a failure."""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

DEADLINE_S = 15.0
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) ([ -~]*)")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\t -~\x80-\xff]*)")
_TIMES = re.compile(rb'("(?:queue|load|prefill|decode|gateway|total)_ms":)[0-9.]+')
_MADE = re.compile(rb'("created":|"id":"msg_)[0-9a-f]+')
_CLOCKS = re.compile(r"x-.*-(time|ms)|x-time-per-token")
DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")


# ---------------------------------------------------------------- requests


def head(start: str, *lines: str) -> bytes:
    """A request's head; the host is this machine unless ``lines`` name one."""
    named = any(line.lower().startswith("host:") for line in lines)
    return "\r\n".join([start, *([] if named else ["Host: localhost"]), *lines, "", ""]).encode("latin-1")


def posted(path: str, body: object, *lines: str, version: str = "HTTP/1.1") -> bytes:
    """A request with a JSON body and its length. Bytes go as they are."""
    data = body if isinstance(body, bytes) else to_json(body)
    length = () if any(line.lower().startswith("content-length:") for line in lines) else (len(data),)
    kind = () if any(line.lower().startswith("content-type:") for line in lines) else ("application/json",)
    more = [*(f"Content-Type: {value}" for value in kind), *(f"Content-Length: {value}" for value in length)]
    return head(f"POST {path} {version}", *more, *lines) + data


def got(path: str, *lines: str, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    return head(f"{method} {path} {version}", *lines)


def chunked(
    path: str, body: object, *lines: str, size: int = 7, extension: bytes = b"", trailers: bytes = b""
) -> bytes:
    """The same in chunks of ``size`` bytes, each with ``extension`` behind its size."""
    data = to_json(body)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    framed = b"".join(b"%X%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    start = f"POST {path} HTTP/1.1"
    opened = head(start, "Content-Type: application/json", "Transfer-Encoding: chunked", *lines)
    return opened + framed + b"0" + extension + b"\r\n" + trailers + b"\r\n"


# ---------------------------------------------------------------- answers


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as it came; ``headers`` in their order, names in lower case."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key == name]
        assert len(found) < 2, f"{name} is there {len(found)} times"
        return found[0] if found else None

    @property
    def json(self) -> Any:
        return from_json(self.body)

    @property
    def closes(self) -> bool:
        return self.header("connection") == "close"


class NotWhole(Exception):
    """More bytes must come before the next answer is whole."""


def answers_in(raw: bytes, headless: Sequence[bool] = ()) -> tuple[list[Answer], bytes]:
    """Whole answers, and what is left over. ``headless`` says which of them answer HEAD. Interim ones
    (100) are answers like all others."""
    answers: list[Answer] = []
    while raw:
        try:
            answer, raw = _first(raw, headless=any(headless[len(answers) : len(answers) + 1]))
        except NotWhole:
            break
        answers.append(answer)
    return answers, raw


def _first(raw: bytes, *, headless: bool) -> tuple[Answer, bytes]:
    top, found, rest = raw.partition(b"\r\n\r\n")
    if not found:
        raise NotWhole
    first, *lines = top.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    assert status, f"not a status line: {first!r}"
    matched = [_HEADER.fullmatch(line) for line in lines]
    assert all(matched), f"not headers: {lines}"
    headers = tuple((m[1].decode().lower(), m[2].decode("latin-1").strip()) for m in matched if m)
    names = dict(headers)
    number = int(status[1])
    if number < 200 or headless or number in (204, 304):
        body = b""
    elif names.get("transfer-encoding") == "chunked":
        assert "content-length" not in names
        body, rest = _dechunked(rest)
    else:
        length = int(names["content-length"])
        if len(rest) < length:
            raise NotWhole
        body, rest = rest[:length], rest[length:]
    return Answer(number, status[2].decode(), headers, body), rest


def _dechunked(raw: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        line, found, raw = raw.partition(b"\r\n")
        if not found:
            raise NotWhole
        assert re.fullmatch(rb"[0-9a-fA-F]+", line), f"not a chunk's size: {line!r}"
        size = int(line, 16)
        if len(raw) < size + 2:
            raise NotWhole
        assert raw[size : size + 2] == b"\r\n", "a chunk is longer than its size"
        body, raw = body + raw[:size], raw[size + 2 :]
        if size == 0:
            return body, raw


def comparable(answer: Answer) -> dict[str, Any]:
    """What two servers must have in common: all but instants, durations and ids that nobody gave."""
    named = answer.header("x-request-id")
    headers = sorted(
        (name, re.sub("[0-9.]+", "0", value) if _CLOCKS.fullmatch(name) else DATE.sub("a date", value))
        for name, value in answer.headers
    )
    made = named is not None and re.fullmatch("[0-9a-f]{16}", named) is not None
    body = timeless(answer.body)
    if made and named is not None:
        headers = [(name, value.replace(named, "made")) for name, value in headers]
        body = body.replace(named.encode(), b"made")
    framed = answer.header("content-length")
    if framed is not None and body != answer.body:
        # A time has as many digits as it has.
        headers = [(name, "of the body" if name == "content-length" else value) for name, value in headers]
        assert int(framed) == len(answer.body)
    said: object = body
    if (answer.header("content-type") or "").startswith("text/event-stream"):
        said = _events(body)
    return {"status": answer.status, "reason": answer.reason, "headers": headers, "body": said}


def timeless(body: bytes) -> bytes:
    """A body without its times, and ids that nobody gave."""
    return _MADE.sub(rb"\1", _TIMES.sub(rb"\g<1>0", body))


def _events(body: bytes) -> list[object]:
    """Events of a stream. Pieces of an answer that OpenAI's dialect puts together as they come are joined."""
    assert body.endswith(b"\n\n"), "the last event is not whole"
    found: list[object] = []
    for event in body[:-2].split(b"\n\n"):
        said = re.fullmatch(
            rb'(data: \{.*"delta":\{"content":)"(.*)"(\},"logprobs":null,"finish_reason":null.*)', event
        )
        if said and found and isinstance(found[-1], list):
            found[-1][1] += said[2]
        elif said:
            found.append([said[1], said[2], said[3]])
        else:
            found.append(event)
    return found


# ---------------------------------------------------------------- sockets


def connected(url: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.settimeout(DEADLINE_S)
    return client


@dataclass(frozen=True, slots=True)
class Told:
    """All that came back on one connection, and whether the server closed it."""

    answers: list[Answer]
    closed: bool

    @property
    def comparable(self) -> list[dict[str, Any]]:
        return [comparable(answer) for answer in self.answers]

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]


PROBE = got("/ping", "x-request-id: probe")


def told(client: socket.socket, count: int, headless: Sequence[bool] = ()) -> Told:
    """Read ``count`` answers. A connection that is not said to be closed must then answer one more request,
    and that one alone."""
    answers = read(client, count, headless)
    if len(answers) < count or answers[-1].closes:
        assert rest_of(client) == b"", "bytes behind the last answer"
        return Told(answers, closed=True)
    client.sendall(PROBE)
    probe = read(client, 1)
    assert [one.header("x-request-id") for one in probe] == ["probe"], f"an answer too many: {probe}"
    return Told(answers, closed=False)


def read(client: socket.socket, count: int, headless: Sequence[bool] = ()) -> list[Answer]:
    """So many answers, or fewer when the server closes."""
    raw = b""
    while True:
        answers, left = answers_in(raw, headless)
        if len(answers) >= count:
            assert len(answers) == count, f"{len(answers)} answers instead of {count}"
            assert not left, f"bytes behind the last answer: {left!r}"
            return answers
        try:
            piece = client.recv(65536)
        except ConnectionResetError:
            piece = b""
        if not piece:
            assert not left, f"the connection was closed in the middle of an answer: {left!r}"
            return answers
        raw += piece


def rest_of(client: socket.socket) -> bytes:
    """All that comes until the server closes."""
    found = b""
    try:
        while piece := client.recv(65536):
            found += piece
    except ConnectionResetError:
        pass  # what it had not read was thrown away
    return found


def leave(client: socket.socket, how: str) -> None:
    """Close the connection: at once, with a reset, or only for what is sent."""
    if how == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half":
        client.shutdown(socket.SHUT_WR)
        rest_of(client)
    client.close()


def taken(clients: Iterable[socket.socket]) -> None:
    """Return once the server has read all that these sockets sent: what is sent next comes apart from it."""
    ports = {client.getsockname()[1] for client in clients}
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if not ports & _unread():
            return
    raise AssertionError("the server does not read")


def _unread() -> set[int]:
    """Ports of clients from which a socket on loopback has bytes that its program has not read."""
    found = set()
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if int(fields[4].partition(":")[2], 16):
            found.add(int(fields[2].partition(":")[2], 16))
    return found
