"""The figures as StatsD lines over UDP, once a second, with tags in the name as Telegraf reads them.

One line per series and flush: counters as what they grew by, gauges as they are, timings as
``value|ms|@rate``: each value stands for 1/rate values that lie within two per cent of it, so that
counts and sums are exact and quantiles nearly so, however many there were. What cannot be sent is
dropped and counted (``metrics_dropped``): nothing waits, and nothing is kept for later.
"""

from __future__ import annotations

import contextlib
import math
import random
import socket
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Final

from statsd import StatsClient
from statsd.client.udp import Pipeline

from gateway.metrics import Family, Metrics
from gateway.metrics_cells import Count, Level, Spread

DATAGRAM_BYTES: Final = 1432
"""What fits an Ethernet frame with room for tunnels: a datagram in fragments is lost with any of them."""
_LINE_BYTES: Final = DATAGRAM_BYTES - 32
_SHARES: Final = 50
DROPPED: Final = "gateway_metrics_dropped_total"
Address = tuple[int, tuple[object, ...]]
"""A family of addresses, and one of it."""


class Listener(StatsClient):  # type: ignore[misc]  # statsd has no types
    """statsd's client on a connected socket that never blocks, and that notices what is lost.

    The package's own would look names up on the event loop, block when buffers are full, and say nothing.
    ``family`` and ``address`` are what ``getaddrinfo`` gave.
    """

    def __init__(self, family: int, address: tuple[object, ...], prefix: str) -> None:
        self._prefix = prefix
        self._maxudpsize = DATAGRAM_BYTES
        self._sock = socket.socket(family, socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        self.lost: dict[str, int] = {}
        try:
            self._sock.connect(address)
        except OSError:
            self._sock.close()
            raise

    def _send(self, data: str) -> None:
        why = self._trouble(data.encode("ascii"))
        if why is not None:
            self.lost[why] = self.lost.get(why, 0) + data.count("\n") + 1

    def _trouble(self, datagram: bytes) -> str | None:
        """What was wrong with sending this; None when it left."""
        try:
            self._sock.send(datagram)
        except BlockingIOError:
            return "buffer_full"
        except ConnectionRefusedError:
            return "refused"
        except OSError:
            return "unreachable"
        # On this machine the kernel knows at once whether anybody listens.
        return "refused" if self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) else None

    def pipeline(self) -> _Batch:
        return _Batch(self)


class _Batch(Pipeline):  # type: ignore[misc]  # statsd has no types
    """Lines that are packed into as few datagrams as they fit; sent as the block ends."""

    def values(self, stat: str, values: Sequence[tuple[float, int]], scale: float) -> None:
        """Timings: (value, how often) each, several to a line."""
        room = _LINE_BYTES - len(stat)
        line: list[str] = []
        for value, times in _spread_out(values):
            text = f"{_number(value * scale)}|ms{_rate(times)}"
            if line and room < len(text) + 1:
                self._send_stat(stat, ":".join(line), 1)
                line, room = [], _LINE_BYTES - len(stat)
            line.append(text)
            room -= len(text) + 1
        if line:
            self._send_stat(stat, ":".join(line), 1)


def tell(listener: Listener, metrics: Metrics, tags: str) -> dict[str, int]:
    """Send what is new and what is. Returns the lines that were lost, by reason.

    What was lost before goes first and alone: while nobody listens, nothing else is tried.
    """
    listener.lost = {}
    metrics.sample()
    if _tell_dropped(listener, metrics, tags):
        with listener.pipeline() as batch:
            for family in metrics.families():
                if family.metric.name != DROPPED:
                    _add(batch, family, tags)
    else:
        listener.lost = dict.fromkeys(listener.lost, forget(metrics))
    return listener.lost


def forget(metrics: Metrics) -> int:
    """Let go of what is new, as there is nobody to tell. Returns how many lines it would have been."""
    return sum(_forget(family) for family in metrics.families() if family.metric.name != DROPPED)


def _tell_dropped(listener: Listener, metrics: Metrics, tags: str) -> bool:
    """Whether somebody listens, as far as can be known. Losses are told until they have left."""
    cells = [cell for cell in metrics.family(DROPPED).series.values() if isinstance(cell, Count)]
    news = [(cell, untold) for cell in cells if (untold := cell.untold())]
    with listener.pipeline() as batch:
        for cell, untold in news:
            batch.incr(cell.stat + tags, untold)
    if listener.lost:
        return False
    for cell, untold in news:
        cell.told += untold
    return True


def _add(batch: _Batch, family: Family, tags: str) -> None:
    scale = family.metric.scale
    for cell in family.series.values():
        if isinstance(cell, Count):
            if untold := cell.untold():
                batch.incr(cell.stat + tags, untold)
                cell.told += untold
        elif isinstance(cell, Level):
            batch.gauge(cell.stat + tags, _rounded(cell.value))
        elif values := cell.take():
            batch.values(cell.stat + tags, values, scale)


def _forget(family: Family) -> int:
    lines = 0
    for cell in family.series.values():
        if isinstance(cell, Count):
            untold = cell.untold()
            cell.told += untold
            lines += bool(untold)
        elif isinstance(cell, Spread):
            lines += bool(cell.take())
        else:
            lines += 1
    return lines


def _spread_out(values: Sequence[tuple[float, int]]) -> Iterator[tuple[float, int]]:
    """In no order, and none for too much at once.

    A daemon that keeps only some values for its percentiles replaces older ones as new ones come: told in
    order of size, the last and largest would be all that it keeps.
    """
    most = max(1, sum(times for _, times in values) // _SHARES)
    parts = [(value, min(most, times - told)) for value, times in values for told in range(0, times, most)]
    random.shuffle(parts)
    return iter(parts)


@lru_cache(maxsize=4096)
def _rate(times: int) -> str:
    """The sample rate that stands for so many values.

    Telegraf counts ``int(1 / rate)`` values: the rate must not be a hair too large.
    """
    if times == 1:
        return ""
    rate = 1 / times
    while int(1 / rate) < times:
        rate = math.nextafter(rate, 0)
    return f"|@{Decimal(repr(rate)):f}"


def _number(value: float) -> str:
    """Without an exponent, which not every daemon reads; a thousandth is the least that is told."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _rounded(value: float) -> float:
    return int(value) if value == int(value) else round(value, 3)


def resolve(host: str, port: int) -> list[Address]:
    """The families and addresses behind a name. Blocks; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    return [(family, address) for family, _, _, _, address in found]


def connect(addresses: Sequence[Address], prefix: str) -> Listener | None:
    """A socket towards the first address that this machine can send to."""
    for family, address in addresses:
        with contextlib.suppress(OSError):
            return Listener(family, address, prefix)
    return None
