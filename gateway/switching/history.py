"""What was measured about one model: its loads, stops, drains and requests, and how often it is asked."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

WEIGHT_OF_NEWEST = 0.2
WEIGHT_OF_NEWEST_OF_MANY = 0.03
"""A queue takes as long as the mean of many requests, which differ much in length."""
KEPT_DURATIONS = 5
MOST_TOGETHER = 50
"""So many equal values move a mean as far as it goes."""
GUESSED_LOAD_S_PER_GB = 5.0
"""Ranks models that were never loaded, before anything is measured. A client sees it only as Retry-After."""
GUESSED_STOP_S = 5.0


@dataclass(slots=True)
class Recent:
    """Rare events: the median of the last few, which one slow load cannot spoil."""

    values: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_DURATIONS))

    def add(self, seconds: float) -> None:
        self.values.append(max(0.0, seconds))

    def estimate(self) -> float | None:
        return median(self.values) if self.values else None

    def last(self) -> float | None:
        return self.values[-1] if self.values else None


@dataclass(slots=True)
class Moving:
    """Frequent events: an exponentially weighted mean."""

    value: float | None = None

    def add(self, seconds: float) -> None:
        seconds = max(0.0, seconds)
        self.value = seconds if self.value is None else self.value + WEIGHT_OF_NEWEST * (seconds - self.value)


@dataclass(slots=True)
class Steady:
    """The mean of many events: the plain one of the first, then a slowly moving one."""

    value: float | None = None
    count: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        before = self.value or 0.0
        self.value = before + max(WEIGHT_OF_NEWEST_OF_MANY, 1 / self.count) * (max(0.0, seconds) - before)


@dataclass(slots=True)
class History:
    load: Recent = field(default_factory=Recent)
    stop: Recent = field(default_factory=Recent)
    drain: Recent = field(default_factory=Recent)
    service: Moving = field(default_factory=Moving)
    occupancy: Steady = field(default_factory=Steady)  # of a slot, by one request: the same as service
    gap: Moving = field(default_factory=Moving)
    last_arrival: float | None = None

    def arrived(self, now: float) -> None:
        if self.last_arrival is not None:
            self.gap.add(now - self.last_arrival)
        self.last_arrival = now

    def arrived_together(self, count: int, now: float) -> None:
        """So many have come since the last one, nobody noted when."""
        last = self.last_arrival
        for _ in range(min(count, MOST_TOGETHER) if last is not None else 0):
            self.gap.add((now - (last or now)) / count)
        self.last_arrival = now

    def arrival_rate(self, now: float) -> float:
        """Requests per second; falls by itself while nobody asks."""
        if self.last_arrival is None or self.gap.value is None:
            return 0.0
        gap_s = max(self.gap.value, now - self.last_arrival)
        return 1.0 / max(gap_s, 1e-3)

    def reload_s(self, footprint_bytes: int) -> float:
        """For ranking only: measured, else guessed from the size."""
        measured = self.load.estimate()
        return footprint_bytes / 1e9 * GUESSED_LOAD_S_PER_GB if measured is None else measured
