"""Who is before whom in one model's queue, without walking along it."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field


@dataclass(slots=True)
class Places:
    """Numbers in order of arrival, one sorted lane for each priority that somebody waits with."""

    lanes: dict[int, list[int]] = field(default_factory=dict)
    last: int = 0

    def take(self, priority: int) -> int:
        """The number of a new place, behind all others."""
        self.last += 1
        self.lanes.setdefault(priority, []).append(self.last)
        return self.last

    def leave(self, priority: int, number: int) -> None:
        lane = self.lanes[priority]
        del lane[bisect_left(lane, number)]
        if not lane:
            del self.lanes[priority]

    def ahead_of(self, priority: int, number: int) -> int:
        """How many came earlier with at least this priority."""
        return sum(bisect_left(lane, number) for other, lane in self.lanes.items() if other >= priority)
