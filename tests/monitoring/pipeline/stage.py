"""What the tests of the pipeline look at."""

from __future__ import annotations

from dataclasses import dataclass

from harness import Running, until
from panels import Window
from processes import Influx, Telegraf
from traffic import Tally


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs, what clients counted, and when."""

    influx: Influx
    telegraf: Telegraf
    gateway: Running
    tally: Tally
    window: Window

    def settled(self) -> None:
        """Wait until everything that was answered is stored."""
        wanted = sum(self.tally.statuses.values()) + self.tally.left
        until(lambda: self.influx.total("gw_requests") >= wanted, f"{wanted} requests in InfluxDB", 20)
