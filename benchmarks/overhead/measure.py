"""The figures of one contender."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.overhead.contenders import Asked, Contender
from benchmarks.overhead.processes import Weighed

TOKENS = 20
STREAMS, RATE = 100, 50


@dataclass(frozen=True, slots=True)
class Effort:
    """How long each part of a run is, in seconds; and the closed loop's connections."""

    warm_s: float
    closed_s: float
    open_s: float
    stream_s: float
    connections: int = 64
    open_rate: float = 100.0


QUICK = Effort(1.0, 3.0, 3.0, 4.0)
FULL = Effort(2.0, 8.0, 10.0, 10.0)


@dataclass(frozen=True, slots=True)
class Figures:
    """One contender's row. Times in the unit that the name says; None where there is no process to weigh."""

    name: str
    cpu_us_per_request: float | None
    requests_per_s: float
    latency_p50_ms: float
    latency_p99_ms: float
    cpu_us_per_token: float | None
    tokens_through: float
    lag_p50_ms: float
    lag_p99_ms: float
    first_p50_ms: float
    rss_mib: float | None


def figures(
    name: str, address: str, contender: Contender, weighed: Weighed | None, load: Path, effort: Effort
) -> Figures:
    """Ask in a closed loop, then at a fixed rate, then as many people who read along."""
    plain, stream = contender.way.plain(TOKENS), contender.way.stream(int(RATE * effort.stream_s), RATE)
    _run(load, address, plain, workers=8, seconds=effort.warm_s)
    before = _cpu_s(weighed)
    closed = _run(load, address, plain, workers=effort.connections, seconds=effort.closed_s)
    asked = _cpu_s(weighed)
    paced = _run(load, address, plain, workers=32, seconds=effort.open_s, rate=effort.open_rate)
    begun = _cpu_s(weighed)
    streamed = _run(load, address, stream, workers=STREAMS, count=STREAMS, spread=1 / RATE)
    ended = _cpu_s(weighed)
    return Figures(
        name=name,
        cpu_us_per_request=_each(asked, before, closed["requests"]),
        requests_per_s=closed["requests"] / closed["seconds"],
        latency_p50_ms=paced["latency_p50_ms"],
        latency_p99_ms=paced["latency_p99_ms"],
        cpu_us_per_token=_each(ended, begun, streamed["tokens"]),
        tokens_through=streamed["tokens"] / streamed["seconds"],
        lag_p50_ms=streamed["lag_p50_ms"],
        lag_p99_ms=streamed["lag_p99_ms"],
        first_p50_ms=streamed["first_p50_ms"],
        rss_mib=None if weighed is None else weighed.rss_bytes() / 2**20,
    )


def _cpu_s(weighed: Weighed | None) -> float:
    return 0.0 if weighed is None else weighed.cpu_s()


def _each(after: float, before: float, count: int) -> float | None:
    return None if after == before else 1e6 * (after - before) / count


def _run(load: Path, address: str, asked: Asked, **options: float) -> dict[str, Any]:
    command = [str(load), "-address", address, "-path", asked.path, "-body", asked.body]
    for name, value in options.items():
        command += [f"-{name}", str(value)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    result: dict[str, Any] = json.loads(said.stdout)
    if result["failed"]:
        raise RuntimeError(f"{result['failed']} requests to {asked.path} failed: {result['why']}")
    return result
