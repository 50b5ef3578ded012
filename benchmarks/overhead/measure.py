"""The figures of one contender in one round, and of all rounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.overhead import load
from benchmarks.overhead.contenders import Contender
from benchmarks.overhead.processes import Weighed

TOKENS = 20
STREAMS, RATE = 100, 50
OPEN_RATE = 100.0
CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Effort:
    """How many rounds, and the seconds of each part; ``window_s`` of ``stream_s`` is weighed."""

    rounds: int
    warm_s: float
    closed_s: float
    open_s: float
    stream_s: float
    window_s: float


QUICK = Effort(3, 0.5, 1.5, 3.0, 3.5, 2.0)
FULL = Effort(5, 1.0, 3.0, 5.0, 6.0, 4.0)

Round = dict[str, float]
"""Figures by name; the unit is in the name. What cannot be weighed is not there."""


@dataclass(slots=True)
class Row:
    """One contender. A figure is the median of its rounds, unless all rounds' samples gave it together."""

    name: str
    rounds: list[Round] = field(default_factory=list)
    pooled: Round = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)
    beside_ms: list[float] = field(default_factory=list)

    def value(self, figure: str) -> float | None:
        if figure in self.pooled:
            return self.pooled[figure]
        values = self.values(figure)
        return median(values) if values else None

    def values(self, figure: str) -> list[float]:
        return [one[figure] for one in self.rounds if figure in one]

    def pool(self) -> None:
        """A few bad moments of the machine would decide a percentile of all requests. So it is taken of every
        second, less that of those that went beside them, and the median of all seconds counts."""
        each = int(OPEN_RATE)
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            added = [
                percentile(through, share) - percentile(beside, share)
                for through, beside in zip(
                    _slices(self.latencies_ms, each), _slices(self.beside_ms, each), strict=True
                )
            ]
            if added:
                self.pooled[f"added_{name}_ms"] = median(added)


def _slices(values: list[float], each: int) -> list[list[float]]:
    return [values[at : at + each] for at in range(0, len(values) - each + 1, each)]


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1))]


@dataclass(frozen=True, slots=True)
class Bench:
    """What every contender is measured with. ``direct`` is the source itself, without anything in front."""

    load: Path
    source: Weighed
    direct: Contender
    effort: Effort


def measure(bench: Bench, one: Contender, weighed: Weighed | None, row: Row) -> None:
    """One round: a closed loop, a fixed rate beside the source itself, and people who read along."""
    figures = _closed(bench, one, weighed)
    figures |= _paced(bench, one, weighed is not None, row)
    figures |= _streamed(bench, one, weighed)
    if weighed is not None:
        figures["rss_mib"] = weighed.rss_bytes() / 2**20
    row.rounds.append(figures)


def _closed(bench: Bench, one: Contender, weighed: Weighed | None) -> Round:
    effort, plain = bench.effort, one.way.plain(TOKENS)
    load.run(bench.load, one.address, plain, workers=8, seconds=effort.warm_s)
    before, source = _cpu_s(weighed), bench.source.cpu_s()
    said = load.run(bench.load, one.address, plain, workers=CONNECTIONS, seconds=effort.closed_s)
    count = said["requests"]
    figures = {
        "requests_per_s": count / said["seconds"],
        "source_us_per_request": _each(bench.source.cpu_s() - source, count),
        "load_us_per_request": _each(said["cpu_s"], count),
    }
    if weighed is not None:
        figures["cpu_us_per_request"] = _each(weighed.cpu_s() - before, count)
    return figures


def _paced(bench: Bench, one: Contender, through: bool, row: Row) -> Round:
    """Plain requests at a fixed rate. Halfway between two of them, one goes to the source directly, so that
    whatever else this machine does at that moment hits both."""
    plain, direct = one.way.plain(TOKENS), bench.direct.way.plain(TOKENS)
    beside: dict[str, str] = {}
    if through:
        beside = {
            "beside_address": bench.direct.address,
            "beside_path": direct.path,
            "beside_body": direct.body,
        }
    said = load.run(
        bench.load,
        one.address,
        plain,
        workers=32,
        seconds=bench.effort.open_s,
        rate=OPEN_RATE,
        samples=True,
        **beside,
    )
    if through:
        row.latencies_ms += said["latencies_ms"]
        row.beside_ms += said["beside"]["latencies_ms"]
    return {f"latency_{name}_ms": said[f"latency_{name}_ms"] for name in ("p50", "p99")}


def _streamed(bench: Bench, one: Contender, weighed: Weighed | None) -> Round:
    """Processor time counts from when all streams have begun: what a request costs is measured elsewhere."""
    effort, stream = bench.effort, one.way.stream(int(RATE * bench.effort.stream_s), RATE)
    options: dict[str, Any] = {"workers": STREAMS, "count": STREAMS, "spread": 1 / RATE}
    with load.running(bench.load, one.address, stream, window=effort.window_s, **options) as run:
        begun, before, source = run.mark(), _cpu_s(weighed), bench.source.cpu_s()
        end, after, sent = run.mark(), _cpu_s(weighed), bench.source.cpu_s()
        said = run.result()
    tokens = end.tokens - begun.tokens
    figures = {name: said[name] for name in ("lag_p50_ms", "lag_p99_ms", "first_p50_ms", "first_p99_ms")}
    figures["tokens_through"] = tokens / effort.window_s
    figures["source_us_per_token"] = _each(sent - source, tokens)
    figures["load_us_per_token"] = _each(said["cpu_s"], said["tokens"])
    if weighed is not None:
        figures["cpu_us_per_token"] = _each(after - before, tokens)
    return figures


def _cpu_s(weighed: Weighed | None) -> float:
    return 0.0 if weighed is None else weighed.cpu_s()


def _each(seconds: float, count: int) -> float:
    return 1e6 * seconds / max(1, count)


def against(ours: Row, other: Row, figure: str) -> tuple[float, float, float] | None:
    """Our multiple of another's figure: the median of the rounds' multiples, the least, and the most.

    Where the figure is one of all rounds together, it is the multiple of that, with no span.
    """
    if figure in ours.pooled and figure in other.pooled:
        if other.pooled[figure] <= 0:
            return None
        ratio = ours.pooled[figure] / other.pooled[figure]
        return ratio, ratio, ratio
    pairs = zip(ours.values(figure), other.values(figure), strict=False)
    ratios = [mine / theirs for mine, theirs in pairs if theirs > 0]
    return (median(ratios), min(ratios), max(ratios)) if ratios else None
