"""Reads cards on request, in a process of its own: the driver's library is loaded once per process.

One request a line on standard input, one JSON line as the answer:
``read CARD`` (the reading and what was logged), ``skip SECONDS`` (of the back-off's clock), ``burst CARD N``
(that many at once), ``threads`` (how many there are).
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading

from gateway.readers import NvmlReader

logged: list[str] = []


class Keep(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logged.append(f"{record.levelname} {record.getMessage()}")


class Readers:
    def __init__(self, timeout_s: float) -> None:
        self.now = 0.0
        self._timeout_s = timeout_s
        self._readers: dict[int, NvmlReader] = {}

    async def read(self, card: int) -> list[int] | None:
        if card not in self._readers:
            self._readers[card] = NvmlReader(card, timeout_s=self._timeout_s, clock=lambda: self.now)
        reading = await self._readers[card].read()
        return None if reading is None else [reading.total_bytes >> 20, reading.used_bytes >> 20]


async def serve(timeout_s: float) -> None:
    readers = Readers(timeout_s)
    while line := (await asyncio.to_thread(sys.stdin.readline)).split():
        answer: object = None
        if line[0] == "skip":
            readers.now += float(line[1])
        elif line[0] == "threads":
            answer = threading.active_count()
        elif line[0] == "burst":
            answer = await asyncio.gather(*(readers.read(int(line[1])) for _ in range(int(line[2]))))
        else:
            answer = await readers.read(int(line[1]))
        print(json.dumps({"answer": answer, "log": logged}), flush=True)
        logged.clear()


if __name__ == "__main__":
    logging.getLogger("gateway").addHandler(Keep())
    logging.getLogger("gateway").setLevel(logging.INFO)
    asyncio.run(serve(float(sys.argv[1])))
