"""From runs to figures: what was lost to switching, who waited how long, and whether the bound held."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from benchmarks.switching.parameters import CARD_BYTES, MAX_CONCURRENT, SPREAD, Engine
from benchmarks.switching.policies import Fifo, LruTimeout, ResidentFirst, StaticSplit
from benchmarks.switching.simulator import Ask, Policy, Result, Simulation
from benchmarks.switching.traces import Trace
from gateway.scheduler import DevicePolicy, ModelPolicy, Scheduler, SwitchPolicy

SETTINGS = SwitchPolicy(max_wait_s=60, min_residency_s=20)
SEEDS = (1, 2, 3)

Engines = dict[str, Engine]
Contender = Callable[[Engines], Policy]


def ours(settings: SwitchPolicy = SETTINGS) -> Contender:
    def build(engines: Engines) -> Policy:
        models = [
            ModelPolicy(e.name, "gpu", e.footprint_bytes, max_concurrent=MAX_CONCURRENT, max_queue=10**6)
            for e in engines.values()
        ]
        return Scheduler(models, [DevicePolicy("gpu", CARD_BYTES)], settings, 0.0)

    return build


OURS = "bounded wait (ours)"

CONTENDERS: dict[str, Contender] = {
    OURS: ours(),
    "FIFO": lambda engines: Fifo(engines, CARD_BYTES),
    "resident first": lambda engines: ResidentFirst(engines, CARD_BYTES),
    "LRU, 20 s time-out": lambda engines: LruTimeout(engines, CARD_BYTES, idle_s=20),
    "static split": lambda engines: StaticSplit(engines, CARD_BYTES, slot_s=SETTINGS.min_residency_s),
}


# The same scheduler with one rule changed.
VARIANTS: dict[str, Contender] = {
    "as above: max_wait 60 s, min_residency 20 s": ours(),
    "an idle model is not held": ours(replace(SETTINGS, hold_idle_gaps=0)),
    "an idle model is held twice as long": ours(replace(SETTINGS, hold_idle_gaps=6)),
    "no minimum residency": ours(replace(SETTINGS, min_residency_s=0)),
    "the defaults: max_wait 30 s, min_residency 10 s": ours(SwitchPolicy()),
    "max_wait 120 s, min_residency 40 s": ours(replace(SETTINGS, max_wait_s=120, min_residency_s=40)),
    "no bound (max_wait of a day)": ours(replace(SETTINGS, max_wait_s=86_400)),
}


@dataclass(frozen=True, slots=True)
class Waits:
    p50_s: float
    p95_s: float
    worst_s: float


@dataclass(frozen=True, slots=True)
class Figures:
    """One policy on one trace, over all seeds."""

    answered: int
    refused: int
    switches: int
    lost_s_per_100: float
    held_s_per_100: float
    waits: dict[str, Waits]  # per model
    worst_s: float
    jain: float
    per_hour: float
    over_bound_s: (
        float  # by how much the worst wait of any seed exceeds that seed's bound; 0 if it never does
    )
    bound_s: float
    most_resident: int
    mean_wait_s: float

    @property
    def keeps_bound(self) -> bool:
        """Nobody waited longer than it, and nobody gave up waiting."""
        return self.over_bound_s <= 0 and self.refused == 0


def run(trace: Trace, contender: Contender, seed: int) -> Result:
    engines = {engine.name: engine for engine in trace.engines}
    simulation = Simulation(engines, contender(engines), random.Random(seed))
    return simulation.run(trace.asks, trace.clients)


def bound_s(engines: Sequence[Engine], service_s: float, settings: SwitchPolicy = SETTINGS) -> float:
    """The longest wait that is guaranteed; see docs/SWITCHING.md. Durations are the longest that occur."""
    slowest = 1 + SPREAD
    switch_s = service_s + slowest * (max(e.stop_s for e in engines) + max(e.load_s for e in engines))
    turn_s = switch_s + settings.min_residency_s
    if len(engines) == 2:
        return max(settings.max_wait_s, turn_s) + switch_s
    return settings.max_wait_s + (len(engines) - 1) * turn_s + switch_s


def measure(
    make_trace: Callable[[int], Trace], contender: Contender, seeds: Iterable[int] = SEEDS
) -> Figures:
    results, overs, bounds = [], [], []
    engines: Sequence[Engine] = ()
    for seed in seeds:
        trace = make_trace(seed)
        engines = trace.engines
        result = run(trace, contender, seed)
        bound = bound_s(engines, _longest_service_s(result.asks))
        overs.append(max(a.wait_s for a in result.asks) - bound)
        bounds.append(bound)
        results.append(result)
    return _figures(results, [e.name for e in engines], max(0.0, *overs), max(bounds))


def _longest_service_s(asks: Iterable[Ask]) -> float:
    return max((_service_s(a) for a in asks if not a.refused), default=0.0)


def _service_s(ask: Ask) -> float:
    assert ask.ended_at is not None
    return 0.0 if ask.granted_at is None else ask.ended_at - ask.granted_at


def _figures(results: list[Result], models: list[str], over_s: float, bound: float) -> Figures:
    asks = [ask for result in results for ask in result.asks]
    answered = sum(not ask.refused for ask in asks)
    lost, held = sum(r.lost_s for r in results), sum(r.held_s for r in results)
    return Figures(
        answered=answered,
        refused=len(asks) - answered,
        switches=sum(r.starts for r in results),
        lost_s_per_100=100 * lost / answered,
        held_s_per_100=100 * held / answered,
        waits={model: _waits([a.wait_s for a in asks if a.model == model]) for model in models},
        worst_s=max(a.wait_s for a in asks),
        jain=_jain([_share_of_service(asks, model) for model in models]),
        per_hour=3600 * answered / sum(r.ended_at for r in results),
        over_bound_s=over_s,
        bound_s=bound,
        most_resident=max(r.most_resident for r in results),
        mean_wait_s=sum(a.wait_s for a in asks) / len(asks),
    )


def _waits(waits: list[float]) -> Waits:
    ordered = sorted(waits)
    return Waits(ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)], ordered[-1])


def _share_of_service(asks: list[Ask], model: str) -> float:
    """Mean share of a request's time in which it was served; 0 for one that was refused."""
    shares = [_service_s(a) / max(1e-9, a.wait_s + _service_s(a)) for a in asks if a.model == model]
    return sum(shares) / len(shares)


def _jain(values: list[float]) -> float:
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0
