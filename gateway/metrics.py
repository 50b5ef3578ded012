"""Every metric: name, kind, unit and labels in one table, and the one object that records them.

The same figures go out twice: as Prometheus' text (``exposition``) and as StatsD lines
(``metrics_statsd``). Labels are bounded: a model name that is not in the registry never becomes a value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, cast

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Exposed

from gateway.metrics_cells import Count, Level, Spread

Kind = Literal["counter", "gauge", "histogram"]
Unit = Literal["", "seconds", "bytes", "tokens", "tokens_per_second"]
Cell = Count | Level | Spread

_WAITS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_GAPS_S = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_LAGS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
_RATES = (1, 2, 5, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 500, 1000)


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table. ``name`` is what Prometheus calls it, and what it is recorded under."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: Unit = ""
    buckets: tuple[float, ...] = _WAITS_S

    @property
    def short(self) -> str:
        """What StatsD calls it, behind the prefix: without the unit where StatsD's own differs."""
        short = self.name.removeprefix("gateway_").removesuffix("_total")
        return short.removesuffix("_seconds") if self.kind == "histogram" else short

    @property
    def scale(self) -> float:
        """StatsD has its times in milliseconds."""
        return 1000.0 if self.kind == "histogram" and self.unit == "seconds" else 1.0


TABLE = (
    # Requests, as clients count them.
    Metric(
        "gateway_requests_total",
        "counter",
        "requests for a generation, answered or left",
        ("model", "route", "status", "arm"),
    ),
    Metric("gateway_http_requests_total", "counter", "requests of every kind", ("route", "status")),
    Metric("gateway_http_requests_open", "gauge", "requests being answered now"),
    Metric("gateway_open_connections", "gauge", "connections of clients, idle ones too"),
    Metric("gateway_generations_total", "counter", "generations by outcome", ("model", "outcome")),
    Metric("gateway_generations_open", "gauge", "generations waiting or running now", ("model",)),
    Metric("gateway_rejected_total", "counter", "requests that got no place in the engine", ("model", "why")),
    Metric(
        "gateway_cancelled_total",
        "counter",
        "requests whose client left, by where they were",
        ("model", "where"),
    ),
    Metric("gateway_retries_total", "counter", "requests sent to an engine once more", ("model", "why")),
    Metric("gateway_fallbacks_total", "counter", "requests that another model answered", ("model", "to")),
    Metric("gateway_upstream_errors_total", "counter", "what engines did wrong", ("model", "kind")),
    # Tokens.
    Metric("gateway_tokens_in_total", "counter", "tokens of prompts", ("model", "arm")),
    Metric("gateway_tokens_out_total", "counter", "generated tokens", ("model", "arm")),
    Metric("gateway_prompt_tokens", "histogram", "length of prompts", ("model",), "tokens", _LENGTHS),
    Metric(
        "gateway_tokens_per_second",
        "histogram",
        "speed of one answer after its first token",
        ("model", "arm"),
        "tokens_per_second",
        _RATES,
    ),
    # Times.
    Metric("gateway_queue_seconds", "histogram", "wait for a turn", ("model",), "seconds"),
    Metric(
        "gateway_load_seconds",
        "histogram",
        "wait for the model to come in, if there was one",
        ("model",),
        "seconds",
    ),
    Metric(
        "gateway_first_token_seconds",
        "histogram",
        "from sending the prompt to the first token",
        ("model", "arm"),
        "seconds",
    ),
    Metric(
        "gateway_between_tokens_seconds",
        "histogram",
        "from one token of a stream to the next",
        ("model", "arm"),
        "seconds",
        _GAPS_S,
    ),
    Metric(
        "gateway_total_seconds",
        "histogram",
        "whole requests that were answered",
        ("model", "route", "arm"),
        "seconds",
    ),
    Metric("gateway_loop_lag_seconds", "histogram", "how late the gateway itself is", (), "seconds", _LAGS_S),
    # Models and what they stand on.
    Metric("gateway_replicas", "gauge", "replicas of a model by state", ("model", "state")),
    Metric("gateway_in_flight", "gauge", "requests inside the engine now", ("model",)),
    Metric("gateway_queued", "gauge", "requests that wait now", ("model",)),
    Metric("gateway_model_state", "gauge", "1 for the state a model is in, else 0", ("model", "state")),
    Metric("gateway_model_memory_bytes", "gauge", "memory a resident model takes", ("model",), "bytes"),
    Metric(
        "gateway_device_memory_bytes",
        "gauge",
        "memory of a device, by kind of figure",
        ("device", "kind"),
        "bytes",
    ),
    Metric("gateway_starts_total", "counter", "starts of an engine by outcome", ("model", "outcome")),
    Metric(
        "gateway_start_seconds", "histogram", "from the start of an engine to ready", ("model",), "seconds"
    ),
    Metric("gateway_switches_total", "counter", "models that came in for another one", ("model",)),
    Metric(
        "gateway_switch_lost_seconds_total",
        "counter",
        "device time lost to switching, by the model that came in",
        ("model",),
        "seconds",
    ),
    Metric("gateway_engine_restarts_total", "counter", "engines that ended or hung while in", ("model",)),
    Metric("gateway_engine_queue", "gauge", "requests that wait inside the engine, as it says", ("model",)),
    Metric("gateway_engine_batch", "gauge", "requests that the engine works on, as it says", ("model",)),
    # More processes than one.
    Metric("gateway_workers", "gauge", "processes that answer beside the first one"),
    Metric(
        "gateway_worker_ends_total", "counter", "workers that ended, or hung and were ended, by themselves"
    ),
    Metric("gateway_places_lent", "gauge", "places in the engine that workers have, used or not", ("model",)),
    # About the figures themselves.
    Metric("gateway_metrics_dropped_total", "counter", "figures that were lost on their way", ("why",)),
)

_STRANGE = re.compile(r"[^A-Za-z0-9_.-]")


def clean(value: str) -> str:
    """A label's value as StatsD may have it: nothing that means something in its lines, or in InfluxDB's."""
    return _STRANGE.sub("_", value) or "none"


@dataclass(slots=True)
class Family:
    """One row and its series, by the values of its labels."""

    metric: Metric
    keep_values: bool
    series: dict[tuple[str, ...], Cell] = field(default_factory=dict)

    def at(self, labels: Mapping[str, str]) -> Cell:
        """The series with these labels, made when it is new. Raises KeyError for labels of others."""
        key = tuple([labels[name] for name in self.metric.labels])
        cell = self.series.get(key)
        if cell is None:
            if len(key) != len(labels):
                raise KeyError(f"{self.metric.name} has the labels {self.metric.labels}, not {tuple(labels)}")
            cell = self.series[key] = self._new(key)
        return cell

    def _new(self, key: tuple[str, ...]) -> Cell:
        metric = self.metric
        stat = metric.short + "".join(
            f",{name}={clean(value)}" for name, value in zip(metric.labels, key, strict=True)
        )
        if metric.kind == "counter":
            return Count(stat)
        if metric.kind == "gauge":
            return Level(stat)
        return Spread(stat, metric.buckets, keep_values=self.keep_values)

    def exposed(self) -> Exposed:
        """As Prometheus has it."""
        name, text, labels = self.metric.name, self.metric.help, self.metric.labels
        if self.metric.kind == "counter":
            counter = CounterMetricFamily(name, text, labels=labels)
            for key, cell in self.series.items():
                counter.add_metric(key, cast(Count, cell).value)
            return counter
        if self.metric.kind == "gauge":
            gauge = GaugeMetricFamily(name, text, labels=labels)
            for key, cell in self.series.items():
                gauge.add_metric(key, cast(Level, cell).value)
            return gauge
        histogram = HistogramMetricFamily(name, text, labels=labels)
        for key, cell in self.series.items():
            reached, total = cast(Spread, cell).cumulative()
            buckets = [(_bound(bound), count) for bound, count in reached]
            histogram.add_metric(key, buckets, sum_value=total)
        return histogram


def _bound(value: float) -> str:
    return "+Inf" if math.isinf(value) else str(float(value))


class Metrics:
    """Records; nothing is global, nothing blocks. ``keep_values`` when StatsD is told as well."""

    def __init__(self, *, keep_values: bool = False) -> None:
        self._families = {metric.name: Family(metric, keep_values) for metric in TABLE}
        self._samplers: list[Callable[[], None]] = []
        self._registry = CollectorRegistry()
        self._registry.register(_Exposing(self._families))

    # What is recorded again and again is looked up once, and kept.

    def counter(self, name: str, **labels: str) -> Count:
        return cast(Count, self._families[name].at(labels))

    def level(self, name: str, **labels: str) -> Level:
        return cast(Level, self._families[name].at(labels))

    def spread(self, name: str, **labels: str) -> Spread:
        return cast(Spread, self._families[name].at(labels))

    # What is recorded now and then.

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        self.counter(name, **labels).add(amount)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self.level(name, **labels).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        self.spread(name, **labels).observe(value)

    @contextmanager
    def open(self, name: str, **labels: str) -> Iterator[None]:
        """Raise a gauge by one for as long as the block runs, however it ends."""
        level = self.level(name, **labels)
        level.add(1)
        try:
            yield
        finally:
            level.add(-1)

    # What is looked up only when somebody wants to know.

    def sampled_by(self, sampler: Callable[[], None]) -> None:
        """Have ``sampler`` set its gauges before the figures go anywhere. It must be quick."""
        self._samplers.append(sampler)

    def sample(self) -> None:
        for sampler in self._samplers:
            sampler()

    def families(self) -> Iterable[Family]:
        return self._families.values()

    def family(self, name: str) -> Family:
        return self._families[name]

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        self.sample()
        return generate_latest(self._registry)

    def value(self, name: str, labels: Mapping[str, str] | None = None) -> float:
        """One sample as it stands now; 0.0 when it was never recorded."""
        return self._registry.get_sample_value(name, dict(labels or {})) or 0.0


class _Exposing:
    """What prometheus_client asks for everything that there is."""

    def __init__(self, families: Mapping[str, Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Exposed]:
        for family in self._families.values():
            yield family.exposed()
