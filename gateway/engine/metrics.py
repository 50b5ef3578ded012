"""Counts and durations under TGI's names, in the Prometheus text format.

Written out here because TGI's counters lack the ``_total`` suffix that the Prometheus client insists on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

_DURATIONS_S = tuple(0.0001 * 1.5**k for k in range(1, 36))


@dataclass(slots=True)
class Counter:
    name: str
    label: str | None = None
    values: dict[str, int] = field(default_factory=dict)

    def add(self, value: str = "") -> None:
        self.values[value] = self.values.get(value, 0) + 1

    def lines(self) -> Iterator[str]:
        yield f"# TYPE {self.name} counter"
        for value, count in self.values.items():
            labels = f'{{{self.label}="{value}"}}' if self.label else ""
            yield f"{self.name}{labels} {count}"


@dataclass(slots=True)
class Gauge:
    name: str
    value: int = 0

    def lines(self) -> Iterator[str]:
        yield f"# TYPE {self.name} gauge"
        yield f"{self.name} {self.value}"


class Histogram:
    """Cumulative buckets; ``bounds`` ascend and exclude infinity."""

    def __init__(self, name: str, bounds: Sequence[float]) -> None:
        self.name = name
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self) -> Iterator[str]:
        yield f"# TYPE {self.name} histogram"
        total = 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            yield f'{self.name}_bucket{{le="{bound}"}} {total}'
        yield f"{self.name}_sum {self._sum}"
        yield f"{self.name}_count {total}"


class Metrics:
    """Everything that ``/metrics`` shows. Lengths are in tokens, durations in seconds."""

    def __init__(self, max_input_tokens: int, max_total_tokens: int) -> None:
        self.requests = Counter("tgi_request_count")
        self.successes = Counter("tgi_request_success")
        self.failures = Counter("tgi_request_failure", label="err")
        self.queued = Gauge("tgi_queue_size")
        self.running = Gauge("tgi_batch_current_size")
        self.total_s = Histogram("tgi_request_duration", _DURATIONS_S)
        self.validation_s = Histogram("tgi_request_validation_duration", _DURATIONS_S)
        self.queue_s = Histogram("tgi_request_queue_duration", _DURATIONS_S)
        self.inference_s = Histogram("tgi_request_inference_duration", _DURATIONS_S)
        self.per_token_s = Histogram("tgi_request_mean_time_per_token_duration", _DURATIONS_S)
        self.input_tokens = Histogram("tgi_request_input_length", _steps(max_input_tokens))
        self.generated_tokens = Histogram("tgi_request_generated_tokens", _steps(max_total_tokens))
        self.max_new_tokens = Histogram("tgi_request_max_new_tokens", _steps(max_total_tokens))

    def exposition(self) -> str:
        parts: list[Counter | Gauge | Histogram] = [
            *(self.requests, self.successes, self.failures, self.queued, self.running),
            *(self.total_s, self.validation_s, self.queue_s, self.inference_s, self.per_token_s),
            *(self.input_tokens, self.generated_tokens, self.max_new_tokens),
        ]
        return "".join(f"{line}\n" for part in parts for line in part.lines())


def _steps(longest: int) -> tuple[float, ...]:
    return tuple(longest / 100 * step for step in range(1, 101))
