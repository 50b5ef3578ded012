"""What is known of the arms of split aliases, for people who compare models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fastapi import Request, Response

from gateway.api.bodies import cut_name
from gateway.api.context import json_response
from gateway.api.services import services_of
from gateway.errors import NotFound
from gateway.experiments import Arm, Experiment
from gateway.quantiles import CONFIDENCE, Estimate, Reservoir, estimate, fewest

QUANTILES: Final[Mapping[str, float]] = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_COMPARED: Final[Mapping[str, tuple[str, str]]] = {
    "first_token_ms": ("takes longer to the first token", "takes less time to the first token"),
    "total_ms": ("takes longer in all", "takes less time in all"),
    "tokens_per_second": ("writes faster", "writes slower"),
}
"""What it means for an arm when the median of a figure is higher than another's, and when it is lower."""


async def experiments(request: Request) -> Response:
    """All split aliases, with how many requests each arm had."""
    found = services_of(request).generations.experiments.all().values()
    return json_response({"object": "list", "data": [_summary(one) for one in found]})


async def experiment(request: Request) -> Response:
    """One split alias: of each arm how many requests, how fast with what confidence, and what it cost.

    Counted since the start of the gateway or the last reset. Answers that waited for a load are cold: they
    are counted and shown apart, and are not a part of the comparison.
    """
    return json_response(_report(_found(request)))


async def reset(request: Request) -> Response:
    """Forget what was seen of one split alias, and begin anew."""
    one = _found(request)
    one.reset()
    return json_response(_report(one))


def _found(request: Request) -> Experiment:
    services = services_of(request)
    name = cut_name(str(request.path_params["alias"]))
    one = services.generations.experiments.all().get(name)
    if one is not None:
        return one
    meant = services.registry.resolve(name)
    why = f"`{name}` always means {meant}" if meant else f"There is no alias `{name}`"
    splits = ", ".join(services.registry.splits())
    raise NotFound(
        f"{why}: there is nothing to compare.",
        field="alias",
        hint=f"Split aliases are: {splits}." if splits else "Give an alias a `split` in the registry.",
    )


def _summary(one: Experiment) -> dict[str, Any]:
    arms = [{"arm": a.model, "weight": a.weight, "requests": a.requests} for a in one.arms.values()]
    return {"object": "experiment", "alias": one.alias, "since": round(one.since, 3), "arms": arms}


def _report(one: Experiment) -> dict[str, Any]:
    medians = {arm.model: _medians(arm) for arm in one.arms.values()}
    return {
        "object": "experiment",
        "alias": one.alias,
        "since": round(one.since, 3),
        "sticky": one.spec.sticky,
        "fallback": list(one.spec.fallback),
        "confidence": CONFIDENCE,
        "arms": [_arm(arm, one) for arm in one.arms.values()],
        "notes": [*_too_few(one), *_differences(one, medians)],
    }


def _arm(arm: Arm, one: Experiment) -> dict[str, Any]:
    weights, requests = one.spec.split or {}, sum(other.requests for other in one.arms.values())
    return {
        "arm": arm.model,
        "weight": arm.weight,
        "share_wanted": round(arm.weight / sum(weights.values()), 4),
        "share": round(arm.requests / requests, 4) if requests else None,
        "requests": arm.requests,
        "answered": arm.answered,
        "errors": arm.errors.total(),
        "errors_by_type": dict(arm.errors),
        "cancelled": arm.cancelled,
        "fell_back": arm.fell_back,
        "completion_tokens": arm.completion_tokens,
        **{name: _figure(values) for name, values in arm.warm.items()},
        "cold": {
            "requests": arm.cold_starts,
            **{name: _figure(values) for name, values in arm.cold.items()},
        },
        "switching": {
            "loads": arm.loads,
            "load_s": round(arm.load_s, 3),
            "waited_s": round(arm.load_wait_s, 3),
        },
    }


def _figure(values: Reservoir) -> dict[str, Any]:
    ordered = values.ordered()
    found = {name: _estimate(estimate(ordered, part)) for name, part in QUANTILES.items()}
    return {"count": values.seen, "sampled": len(ordered), **found}


def _estimate(found: Estimate | None) -> dict[str, float | None] | None:
    if found is None:
        return None
    parts = {"value": found.value, "low": found.low, "high": found.high}
    return {name: None if part is None else round(part, 3) for name, part in parts.items()}


# ---------------------------------------------------------------- in words


def _too_few(one: Experiment) -> Iterator[str]:
    for arm in one.arms.values():
        there = arm.warm["total_ms"].seen
        lacking = [f"{name} needs {fewest(q)}" for name, q in QUANTILES.items() if there < fewest(q)]
        if lacking:
            yield (
                f"Too little data for {arm.model}: {there} warm answers, and an interval with both ends of "
                f"{', of '.join(lacking)}."
            )


def _medians(arm: Arm) -> dict[str, Estimate | None]:
    return {name: estimate(values.ordered(), 0.5) for name, values in arm.warm.items()}


def _differences(one: Experiment, medians: Mapping[str, Mapping[str, Estimate | None]]) -> Iterator[str]:
    """Each arm beside the one with most weight. Intervals that do not overlap are a careful test."""
    first, *others = one.spec.models
    for other in others:
        for figure, (higher, lower) in _COMPARED.items():
            here, there = medians[other][figure], medians[first][figure]
            if here is None or there is None:
                continue
            if _above(here, there):
                yield f"{other} {higher} than {first}: the intervals of {figure} at p50 do not overlap."
            elif _above(there, here):
                yield f"{other} {lower} than {first}: the intervals of {figure} at p50 do not overlap."
            elif None not in (here.low, here.high, there.low, there.high):
                yield f"By {figure} at p50, no difference between {other} and {first} can be told yet."


def _above(one: Estimate, other: Estimate) -> bool:
    return one.low is not None and other.high is not None and one.low > other.high
