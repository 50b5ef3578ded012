"""Run every policy over every trace and write docs/SWITCHING.md and its plot. Takes about a minute.

Ends with status 1 when our policy broke its bound, or lost more to switching than one that kept it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.switching import plot, report
from benchmarks.switching.figures import CONTENDERS, SEEDS, VARIANTS, Figures, measure
from benchmarks.switching.traces import TRACES, Trace

DOCS = Path(__file__).parents[2] / "docs"


def main() -> int:
    results: list[tuple[Trace, dict[str, Figures]]] = []
    for make in TRACES:
        trace = make(0)
        figures = {name: measure(make, contender) for name, contender in CONTENDERS.items()}
        results.append((trace, figures))
        print(f"{trace.name}: {report.verdict(figures)}")
    by_variant = {
        name: [measure(make, contender, SEEDS[:1]) for make in TRACES] for name, contender in VARIANTS.items()
    }
    plot.draw(results, DOCS / "img" / "switching.svg")
    report.write(DOCS / "SWITCHING.md", report.page(results, by_variant))
    verdicts = [report.verdict(figures) for _, figures in results]
    return int(any(v.startswith(("over", "behind")) for v in verdicts))


if __name__ == "__main__":
    sys.exit(main())
