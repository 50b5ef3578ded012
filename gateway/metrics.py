"""Every metric: name, unit and labels in one table, and the one object that records them.

Labels are bounded: a model name that is not in the registry never becomes a label value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

Kind = Literal["counter", "gauge", "histogram"]

_WAITS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table. Names end in their unit, as Prometheus asks for."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


TABLE = (
    Metric("gateway_http_requests_total", "counter", "answered HTTP requests", ("route", "status")),
    Metric("gateway_http_requests_open", "gauge", "HTTP requests being answered now"),
    Metric("gateway_generations_total", "counter", "generations by outcome", ("model", "outcome")),
    Metric("gateway_generations_open", "gauge", "generations waiting or running now", ("model",)),
    Metric("gateway_tokens_total", "counter", "tokens, kind prompt or completion", ("model", "kind")),
    Metric("gateway_queue_seconds", "histogram", "wait for a turn", ("model",)),
    Metric("gateway_load_seconds", "histogram", "wait for the model to come in", ("model",)),
    Metric(
        "gateway_first_token_seconds", "histogram", "from sending the prompt to the first token", ("model",)
    ),
    Metric("gateway_total_seconds", "histogram", "the whole request", ("model",)),
    Metric(
        "gateway_fallbacks_total",
        "counter",
        "requests that went on to another model, since the one asked could not",
        ("model", "to"),
    ),
    Metric("gateway_starts_total", "counter", "starts of an engine by outcome", ("model", "outcome")),
    Metric("gateway_start_seconds", "histogram", "from the start of an engine to ready", ("model",)),
    Metric("gateway_model_state", "gauge", "1 for the state a model is in, else 0", ("model", "state")),
    Metric("gateway_model_memory_bytes", "gauge", "memory a resident model takes", ("model",)),
)


class Metrics:
    """Records into a registry of its own; nothing is global, nothing blocks."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in TABLE:
            self._add(metric)

    def _add(self, metric: Metric) -> None:
        labels, registry = metric.labels, self._registry
        if metric.kind == "counter":
            self._counters[metric.name] = Counter(metric.name, metric.help, labels, registry=registry)
        elif metric.kind == "gauge":
            self._gauges[metric.name] = Gauge(metric.name, metric.help, labels, registry=registry)
        else:
            self._histograms[metric.name] = Histogram(
                metric.name, metric.help, labels, registry=registry, buckets=_WAITS_S
            )

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc(amount)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        gauge = self._gauges[name]
        (gauge.labels(**labels) if labels else gauge).set(value)

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        histogram = self._histograms[name]
        (histogram.labels(**labels) if labels else histogram).observe(seconds)

    @contextmanager
    def open(self, name: str, **labels: str) -> Iterator[None]:
        """Raise a gauge by one for as long as the block runs, however it ends."""
        gauge = self._gauges[name]
        child = gauge.labels(**labels) if labels else gauge
        child.inc()
        try:
            yield
        finally:
            child.dec()

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def value(self, name: str, labels: Mapping[str, str] | None = None) -> float:
        """One sample as it stands now; 0.0 when it was never recorded."""
        return self._registry.get_sample_value(name, dict(labels or {})) or 0.0
