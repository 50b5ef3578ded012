"""One line every few seconds, so that nobody wonders whether it still runs."""

from __future__ import annotations

import sys
import time
from typing import Any

EVERY_S = 5.0


class Progress:
    """Told every sample; prints some."""

    def __init__(self, name: str, seconds: float) -> None:
        self._name = name
        self._seconds = seconds
        self._began = time.monotonic()
        self._said = 0.0
        self._before: tuple[float, float] | None = None

    def told(self, row: dict[str, Any]) -> None:
        passed = time.monotonic() - self._began
        if passed - self._said < EVERY_S:
            return
        total = sum(row["requests"].values())
        rate = 0.0
        if self._before is not None:
            rate = (total - self._before[0]) / (passed - self._before[1])
        self._said, self._before = passed, (total, passed)
        print(self.line(passed, rate, row), file=sys.stderr, flush=True)

    def line(self, passed: float, rate: float, row: dict[str, Any]) -> str:
        states = " ".join(f"{model} {state}" for model, state in row["state"].items() if state != "stopped")
        bad = sum(count for status, count in row["requests"].items() if status in ("4xx", "5xx"))
        flight, queued = sum(row["in_flight"].values()), sum(row["queued"].values())
        return (
            f"{self._name:>12} {passed:4.0f}/{self._seconds:.0f} s  {rate:6.1f} req/s"
            f"  in flight {flight:3.0f}  queued {queued:3.0f}  refused or failed {bad:.0f}  {states}"
        )

    def end(self) -> None:
        passed = time.monotonic() - self._began
        print(f"{self._name:>12} done after {passed:.0f} s", file=sys.stderr, flush=True)
