"""What differs between two sides that were measured in turn, and how sure that is.

Requests of one run are no independent witnesses: a slow minute slows them all. So the unit is the pair of
runs side by side. Each gives one difference; the interval of their median lies between two of them, so that
a pair in which the machine was busy with something else does no harm. Several figures are looked at, so each
interval is wider (Bonferroni): that any of them is wrong has a chance of 5 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final

from loadtest.report import figures
from loadtest.results import PartData, Results
from loadtest.stats import CONFIDENCE, Interval, median_of

Figure = Callable[[PartData], float | None]


def _done(part: PartData, quantile: float, name: str) -> float | None:
    values = {
        "total": (one.total_ms for one in part.records if one.outcome == "ok"),
        "own": (figures.own_ms(one) for one in part.records if one.outcome == "ok"),
        "first": (one.first_token_ms for one in part.records if one.first_token_ms is not None),
        "gaps": (gap for one in part.records for gap in one.gaps_ms),
        "gateway": (one.receipt["gateway_ms"] for one in part.records if one.receipt),
    }[name]
    return figures.quantile_of(values, quantile)


def _gateway_cpu_us(part: PartData) -> float | None:
    used = figures.usage(part.samples, "gateway")
    return None if used is None else 1e6 * used.cpu_s / max(1, len(part.records))


FIGURES: Final[tuple[tuple[tuple[str, str], Figure], ...]] = (
    (("answers/s", "回答/s"), lambda part: figures.rates(part).answers),
    (("whole answer P50, ms", "完整回答 P50，ms"), lambda part: _done(part, 0.5, "total")),
    (("whole answer P95, ms", "完整回答 P95，ms"), lambda part: _done(part, 0.95, "total")),
    (("first token P50, ms", "首 token P50，ms"), lambda part: _done(part, 0.5, "first")),
    (("between tokens P50, ms", "token 间隔 P50，ms"), lambda part: _done(part, 0.5, "gaps")),
    (("gateway itself P50, ms", "网关自身 P50，ms"), lambda part: _done(part, 0.5, "gateway")),
    (("processor of the gateway, µs/request", "网关处理器，微秒/请求"), _gateway_cpu_us),
)


FEWEST_PAIRS: Final = 9
"""With fewer, no two of the differences are far enough apart for so many figures."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure: its median on both sides, and B's difference from A in per cent of A, with its interval."""

    name: tuple[str, str]
    a: float
    b: float
    percent: Interval
    pairs: tuple[float, ...]


def differences(found: Results) -> list[Difference]:
    """All figures that can be had in every pair."""
    pairs: dict[int, dict[str, PartData]] = {}
    for stand, part in zip(found.head["stands"], found.parts, strict=True):
        pairs.setdefault(stand["pair"], {})[stand["side"]] = part
    confidence = 1 - (1 - CONFIDENCE) / len(FIGURES)
    rows = []
    for name, figure in FIGURES:
        both = [(figure(pair["A"]), figure(pair["B"])) for pair in pairs.values()]
        known = [(a, b) for a, b in both if a is not None and b is not None]
        if len(known) < len(both) or not known:
            continue
        middle_a, middle_b = (median(side) for side in zip(*known, strict=True))
        if middle_a == 0:
            continue
        changes = tuple(100 * (b - a) / middle_a for a, b in known)
        if (inside := median_of(changes, confidence)) is not None:
            rows.append(Difference(name, middle_a, middle_b, inside, changes))
    return rows
