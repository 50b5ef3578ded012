"""A StatsD listener that reads lines as Telegraf's does, and keeps all that it was told."""

from __future__ import annotations

import socket
from collections import defaultdict
from dataclasses import dataclass, field

from harness import until

DATAGRAM_BYTES = 1432

Tags = frozenset[tuple[str, str]]


@dataclass(slots=True)
class Told:
    """What lines say, by name and tags: counters added up, gauges as last set, timings one by one."""

    counters: dict[tuple[str, Tags], int] = field(default_factory=lambda: defaultdict(int))
    gauges: dict[tuple[str, Tags], float] = field(default_factory=dict)
    timings: dict[tuple[str, Tags], list[float]] = field(default_factory=lambda: defaultdict(list))

    def read(self, line: str) -> None:
        name, *bits = line.split(":")
        base, *tags = name.split(",")
        key = (base, frozenset((tag.partition("=")[0], tag.partition("=")[2]) for tag in tags))
        for bit in bits:
            value, kind, *rate = bit.split("|")
            if kind == "c":
                self.counters[key] += int(value)
            elif kind == "g":
                self.gauges[key] = float(value)
            else:
                assert kind == "ms", line
                # As Telegraf: a rate of 0.25 stands for int(1 / 0.25) values.
                times = int(1 / float(rate[0].removeprefix("@"))) if rate else 1
                self.timings[key] += [float(value)] * times

    def count(self, name: str, **tags: str) -> int:
        return sum(value for key, value in self.counters.items() if _fits(key, name, tags))

    def values(self, name: str, **tags: str) -> list[float]:
        return sorted(v for key, values in self.timings.items() if _fits(key, name, tags) for v in values)


def _fits(key: tuple[str, Tags], name: str, tags: dict[str, str]) -> bool:
    return key[0] == name and set(tags.items()) <= key[1]


class StatsdListener:
    """On a free UDP port of this machine. ``leave`` and ``come_back`` are those of a daemon that restarts."""

    def __init__(self) -> None:
        self.told = Told()
        self.datagrams: list[bytes] = []
        self._socket = self._listen(0)
        self.port = int(self._socket.getsockname()[1])

    def _listen(self, port: int) -> socket.socket:
        listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**21)
        listening.bind(("127.0.0.1", port))
        listening.setblocking(False)
        return listening

    def hear(self) -> Told:
        """All that has come by now."""
        try:
            while True:
                datagram = self._socket.recv(65_535)
                self.datagrams.append(datagram)
                for line in datagram.decode("ascii").split("\n"):
                    self.told.read(line)
        except BlockingIOError:
            return self.told

    def until(self, condition: object, what: str) -> Told:
        assert callable(condition)
        until(lambda: condition(self.hear()), what)
        return self.told

    def leave(self) -> None:
        self._socket.close()

    def come_back(self) -> None:
        self._socket = self._listen(self.port)
