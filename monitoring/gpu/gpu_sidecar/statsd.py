"""The way to Telegraf: StatsD lines with tags as InfluxDB writes them, in datagrams that nobody splits."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from gpu_sidecar.outage import Outage
from gpu_sidecar.series import Sample, number

LARGEST_DATAGRAM_BYTES: Final = 1432
_RESOLVE_EVERY_S: Final = 60.0
_SURE_AFTER_S: Final = 10.0  # refusals come late: this long without one before it counts as over


class Lines:
    """Makes lines of samples. Remembers what it said of each counter, because StatsD counters are increments.

    A counter that is new to it begins with what it is then: its first line says 0.
    """

    def __init__(self) -> None:
        self._said: dict[tuple[str, ...], int] = {}

    def of(self, samples: Iterable[Sample]) -> list[str]:
        return [self._line(sample) for sample in samples]

    def _line(self, sample: Sample) -> str:
        tags = "".join(f",{tag}={sample.tags[tag]}" for tag in sample.metric.tags)
        if sample.metric.kind == "gauge":
            return f"gw.{sample.name}{tags}:{number(sample.value)}|g"
        return f"gw.{sample.name}{tags}:{self._increment(sample)}|c"

    def _increment(self, sample: Sample) -> int:
        """Whole units: Telegraf cuts fractions off counters. What is cut here comes with a later line."""
        total = int(sample.value)
        increment = total - self._said.get(sample.key, total)
        self._said[sample.key] = total
        return increment


def datagrams(lines: Iterable[str], largest_bytes: int = LARGEST_DATAGRAM_BYTES) -> Iterator[bytes]:
    """As few datagrams as hold the lines in their order, none above ``largest_bytes``."""
    held = b""
    for line in lines:
        encoded = line.encode("ascii")
        if held and len(held) + 1 + len(encoded) > largest_bytes:
            yield held
            held = b""
        held = held + b"\n" + encoded if held else encoded
    if held:
        yield held


class Sender:
    """Sends datagrams and never fails: who does not listen does not get them, and that is said once.

    The name is looked up again each minute and after an error: a container made anew has a new address.
    """

    def __init__(self, host: str, port: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._port = port
        self._clock = clock
        self._socket: socket.socket | None = None
        self._resolve_at = 0.0
        self._failed_at = -_SURE_AFTER_S
        self._outage = Outage(f"StatsD at {host}:{port}", "cannot be reached", "is reached again")

    def send(self, lines: Iterable[str]) -> None:
        """Blocks for a name's look-up at most."""
        for datagram in datagrams(lines):
            failure = self._try(datagram)
            if failure is not None:
                self._failed_at = self._clock()
                self._outage.began(failure)
        if self._clock() - self._failed_at >= _SURE_AFTER_S:
            self._outage.ended()

    def _try(self, datagram: bytes) -> str | None:
        """Why it could not be sent; None when it was. A refusal answers the datagram before this one."""
        try:
            connected = self._connected()
            try:
                connected.send(datagram)
            except ConnectionRefusedError:
                connected.send(datagram)
                return "nobody listens there"
        except OSError as error:
            self.close()
            return error.strerror or str(error)
        return None

    def _connected(self) -> socket.socket:
        if self._socket is None or self._clock() >= self._resolve_at:
            self.close()
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)
            family, kind, protocol, _, address = found[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setblocking(False)
            self._socket.connect(address)
            self._resolve_at = self._clock() + _RESOLVE_EVERY_S
        return self._socket

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
