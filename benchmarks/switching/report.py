"""The published page: tables between the markers of docs/SWITCHING.md, and the plot beside it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks.switching.figures import OURS, SEEDS, Figures
from benchmarks.switching.parameters import SOURCES
from benchmarks.switching.traces import Trace

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
TIE = 0.01
"""Two policies within this share of each other are level: loads vary by chance."""

ByPolicy = dict[str, Figures]


def verdict(figures: ByPolicy) -> str:
    """Where ours stands in seconds lost among the policies that kept the bound on this trace."""
    mine = figures[OURS]
    if not mine.keeps_bound:
        return "over its bound"
    rivals = {n: f.lost_s_per_100 for n, f in figures.items() if n != OURS and f.keeps_bound}
    if not rivals:
        return "ahead: no rival keeps the bound"
    name, best = min(rivals.items(), key=lambda item: item[1])
    if mine.lost_s_per_100 < best * (1 - TIE):
        return f"ahead by {1 - mine.lost_s_per_100 / best:.0%} of {name}"
    return f"level with {name}" if mine.lost_s_per_100 <= best * (1 + TIE) else f"behind {name}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summary(results: list[tuple[Trace, ByPolicy]]) -> str:
    names = list(results[0][1])
    rows = (
        [trace.name, *(_lost(figures[name]) for name in names), verdict(figures)]
        for trace, figures in results
    )
    return table(["seconds lost per 100 requests", *names, "ours is"], rows)


def _lost(figures: Figures) -> str:
    text = f"{figures.lost_s_per_100:,.0f}"
    return text if figures.keeps_bound else f"({text})"


def details(trace: Trace, figures: ByPolicy) -> str:
    models = [engine.name for engine in trace.engines]
    head = [
        "policy",
        "switches",
        "lost s/100",
        "held s/100",
        *models,
        "mean wait",
        "Jain",
        "answered/h",
        "bound",
    ]
    return f"**{trace.name}**: {trace.about}\n\n" + table(
        head, (_row(n, f, models) for n, f in figures.items())
    )


def _row(name: str, f: Figures, models: list[str]) -> list[str]:
    waits = (f"{w.p50_s:,.0f} / {w.p95_s:,.0f} / {w.worst_s:,.0f}" for w in (f.waits[m] for m in models))
    return [
        name,
        f"{f.switches:,}",
        f"{f.lost_s_per_100:,.0f}",
        f"{f.held_s_per_100:,.0f}",
        *waits,
        f"{f.mean_wait_s:,.1f}",
        f"{f.jain:.2f}",
        f"{f.per_hour:,.0f}",
        _bound(f),
    ]


def _bound(f: Figures) -> str:
    if f.refused:
        return f"{f.refused} gave up"
    return f"{f.bound_s:,.0f} s kept" if f.keeps_bound else f"{f.over_bound_s:,.0f} s over"


def variants(results: dict[str, list[Figures]]) -> str:
    head = ["variant", "switches", "lost s/100", "held s/100", "mean wait", "worst wait", "gave up"]
    return table(head, ([name, *_total(figures)] for name, figures in results.items()))


def _total(figures: list[Figures]) -> list[str]:
    answered = sum(f.answered for f in figures)
    asked = sum(f.answered + f.refused for f in figures)
    return [
        f"{sum(f.switches for f in figures):,}",
        f"{sum(f.lost_s_per_100 * f.answered for f in figures) / answered:,.1f}",
        f"{sum(f.held_s_per_100 * f.answered for f in figures) / answered:,.1f}",
        f"{sum(f.mean_wait_s * (f.answered + f.refused) for f in figures) / asked:,.1f}",
        f"{max(f.worst_s for f in figures):,.0f}",
        f"{sum(f.refused for f in figures):,}",
    ]


def sources() -> str:
    return "\n".join(f"* **{what}**: {where}." for what, where in SOURCES.items())


def page(results: list[tuple[Trace, ByPolicy]], by_variant: dict[str, list[Figures]]) -> str:
    about = (
        f"Sums over {len(SEEDS)} seeds of one simulated hour each. In brackets: the policy broke the bound on"
        " this trace, or somebody gave up. FIFO's queue grows without end where the card cannot keep up."
    )
    parts = [
        "![Seconds lost and worst waits by trace and policy](img/switching.svg)",
        about,
        summary(results),
        "### In full",
        "Waits are p50 / p95 / worst in seconds, per model, from arrival to the engine.",
        *(details(trace, figures) for trace, figures in results),
        "### What each rule buys",
        "The same scheduler with one rule changed, over all traces together, one seed.",
        variants(by_variant),
        "### Where the card's figures come from",
        sources(),
    ]
    return "\n\n".join(parts)


def write(path: Path, generated: str) -> None:
    """Raises ValueError if the page has lost its markers."""
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{path} has no {BEGIN} … {END}")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    path.write_text(f"{before}{BEGIN}\n\n{generated}\n\n{END}{after}", encoding="utf-8")
