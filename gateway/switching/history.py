"""What was measured about one model: its loads, stops, drains and requests, and how often it is asked."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

WEIGHT_OF_NEWEST = 0.2
WEIGHT_OF_NEWEST_SERVICE = 0.03
"""Requests differ much in length, and a queue is as long as the mean of many of them."""
KEPT_DURATIONS = 5
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
    """Frequent events: the plain mean of the first few, then an exponentially weighted one."""

    weight: float = WEIGHT_OF_NEWEST
    value: float | None = None
    count: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        before = self.value or 0.0
        weight = max(self.weight, 1 / self.count)
        self.value = before + weight * (max(0.0, seconds) - before)


@dataclass(slots=True)
class History:
    load: Recent = field(default_factory=Recent)
    stop: Recent = field(default_factory=Recent)
    drain: Recent = field(default_factory=Recent)
    service: Moving = field(default_factory=lambda: Moving(WEIGHT_OF_NEWEST_SERVICE))
    gap: Moving = field(default_factory=Moving)
    last_arrival: float | None = None

    def arrived(self, now: float) -> None:
        if self.last_arrival is not None:
            self.gap.add(now - self.last_arrival)
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
