"""Sends the figures off while the gateway runs, and measures how late the gateway itself is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.metrics import Metrics
from gateway.metrics_statsd import DROPPED, Address, Listener, connect, forget, resolve, tell

logger = logging.getLogger("gateway.telemetry")

LAG_EVERY_S = 0.25
LOOK_UP_AGAIN_S = 30.0
"""A listener that was made anew may have another address; names are looked up this often."""
LOOK_UP_SOON_S = 2.0
"""How long after a look-up that failed the next one begins."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where StatsD lines go, and how. ``tags`` are ``name=value``, separated by commas."""

    host: str
    port: int
    prefix: str
    interval_s: float
    tags: str


@asynccontextmanager
async def running(metrics: Metrics, target: Target | None) -> AsyncIterator[None]:
    """Keep the figures alive for as long as the block runs. The last of them are sent as it ends."""
    tasks = [asyncio.create_task(_measure_lag(metrics))]
    sender = None
    if target is not None:
        sender = Sender(metrics, target)
        tasks.append(asyncio.create_task(sender.run()))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if sender is not None:
            sender.close()


async def _measure_lag(metrics: Metrics) -> None:
    """How much later than asked for a timer rings: every request waits as long."""
    lag = metrics.spread("gateway_loop_lag_seconds")
    while True:
        due = time.perf_counter() + LAG_EVERY_S
        await asyncio.sleep(LAG_EVERY_S)
        lag.observe(max(0.0, time.perf_counter() - due))


class Sender:
    """Tells one StatsD listener, again and again. Nothing here waits for anybody."""

    def __init__(self, metrics: Metrics, target: Target) -> None:
        self._metrics = metrics
        self._target = target
        self._tags = f",{target.tags}" if target.tags else ""
        self._listener: Listener | None = None
        self._addresses: Sequence[Address] = ()
        self._looking = False
        self._look_up_at = 0.0
        self._said: str | None = ""

    async def run(self) -> None:
        interval_s = self._target.interval_s
        due = time.monotonic()
        self._look_up()
        while True:
            now = time.monotonic()
            # In step with the clock; what was missed while the gateway was busy is not made up for.
            due = max(due + interval_s, now)
            await asyncio.sleep(due - now)
            try:
                if time.monotonic() >= self._look_up_at:
                    self._look_up()
                self.flush()
            except Exception:  # without figures nobody would see that there are none
                logger.exception("sending StatsD figures failed")

    def flush(self) -> None:
        """Send everything that is new. What is lost is counted, and said once."""
        if self._listener is None:
            lost = {"no_address": forget(self._metrics)}
        else:
            lost = tell(self._listener, self._metrics, self._tags)
        for why, lines in lost.items():
            self._metrics.count(DROPPED, lines, why=why)
        self._say(next(iter(lost), None))

    def close(self) -> None:
        """Send the last figures."""
        self.flush()
        if self._listener is not None:
            self._listener.close()

    def _say(self, why: str | None) -> None:
        where = f"{self._target.host}:{self._target.port}"
        if why == self._said:
            return
        if why is not None:
            logger.warning(
                "StatsD figures for %s are lost: %s. They are counted, and tried again.", where, why
            )
        else:
            logger.info("StatsD figures go to %s", where)
        self._said = why

    # Names are looked up by a thread of its own: that can hang for as long as the name servers like, and
    # asyncio's own threads would be waited for when the gateway stops.

    def _look_up(self) -> None:
        if self._looking:
            return
        self._looking = True
        loop = asyncio.get_running_loop()

        def work() -> None:
            found: Sequence[Address] = ()
            with contextlib.suppress(OSError, UnicodeError):
                found = resolve(self._target.host, self._target.port)
            with contextlib.suppress(RuntimeError):  # the gateway has ended meanwhile
                loop.call_soon_threadsafe(self._found, found)

        threading.Thread(target=work, name="statsd-name", daemon=True).start()

    def _found(self, addresses: Sequence[Address]) -> None:
        self._looking = False
        self._look_up_at = time.monotonic() + (LOOK_UP_AGAIN_S if addresses else LOOK_UP_SOON_S)
        if not addresses or (addresses == self._addresses and self._listener is not None):
            return  # a name that is gone for a moment: the address that it had is still the best guess
        listener = connect(addresses, self._target.prefix)
        if listener is None:
            return
        if self._listener is not None:
            self._listener.close()
        self._listener, self._addresses = listener, addresses
