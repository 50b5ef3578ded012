"""The clients' own figures as StatsD lines, under the names that docs/MONITORING.md gives to a load test.

Added up here and sent once a second: one datagram for each request would be lost by the dozen.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from loadtest.records import Record

DATAGRAM_BYTES = 1432
"""What fits an Ethernet frame with room for tunnels."""
_STRANGE = re.compile(r"[^A-Za-z0-9_.-]+")


class BadAddress(Exception):
    """A StatsD address that cannot be used. The text says why."""


def parse_address(text: str) -> tuple[str, int]:
    """``host`` or ``host:port``; the port is 8125 unless given. Raises BadAddress."""
    host, _, port = text.rpartition(":") if ":" in text else (text, "", "8125")
    if not host or not port.isdigit():
        raise BadAddress(f"--statsd takes HOST or HOST:PORT, not {text!r}.")
    return host, int(port)


@dataclass(slots=True)
class Reporter:
    """Sends to one address; what cannot be sent is dropped, as StatsD has it."""

    address: tuple[str, int]
    prefix: str = "gw"
    _counts: Counter[str] = field(default_factory=Counter)
    _times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _socket: socket.socket = field(
        default_factory=lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), repr=False
    )

    def add(self, record: Record) -> None:
        """A request that has come to its end; one that the run cut off has none."""
        if record.outcome == "cut":
            return
        name = clean(record.name)
        self._counts[f"locust_requests,name={name}"] += 1
        if record.outcome in ("failed", "refused"):
            self._counts[f"locust_failures,name={name}"] += 1
        self._times[f"locust_response_time,name={name}"].append(record.total_ms)
        if record.first_token_ms is not None:
            self._times[f"locust_first_token,name={name}"].append(record.first_token_ms)

    def flush(self, users: int | None) -> None:
        """Send what was added up. ``users``: how many are at work, where this process knows."""
        lines = [f"{self.prefix}.{stat}:{count}|c" for stat, count in self._counts.items()]
        lines += [f"{self.prefix}.{stat}:{ms:.3f}|ms" for stat, times in self._times.items() for ms in times]
        if users is not None:
            lines.append(f"{self.prefix}.locust_users:{users}|g")
        self._counts.clear()
        self._times.clear()
        for datagram in datagrams(lines):
            with contextlib.suppress(OSError):
                self._socket.sendto(datagram, self.address)

    def close(self) -> None:
        self._socket.close()


def clean(name: str) -> str:
    """As a tag's value may be: nothing that means something in a line."""
    return _STRANGE.sub("_", name) or "none"


def datagrams(lines: list[str]) -> list[bytes]:
    """The lines, as many to a datagram as fit."""
    packed: list[bytes] = []
    room: list[str] = []
    size = 0
    for line in lines:
        if room and size + len(line) + 1 > DATAGRAM_BYTES:
            packed.append("\n".join(room).encode())
            room, size = [], 0
        room.append(line)
        size += len(line) + 1
    if room:
        packed.append("\n".join(room).encode())
    return packed
