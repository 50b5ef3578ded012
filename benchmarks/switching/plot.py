"""The picture: what switching costs, and whether anybody waited too long for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.switching.figures import Figures
from benchmarks.switching.traces import Trace

COLOURS = ("#1b6ca8", "#c44536", "#e09f3e", "#7a7a7a", "#6a994e")


def draw(results: list[tuple[Trace, dict[str, Figures]]], path: Path) -> None:
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "switching"  # the same figures give the same file
    from matplotlib import pyplot as plt  # after the choice of its backend

    figure, (lost, worst) = plt.subplots(2, 1, figsize=(11, 8), sharex=True, layout="constrained")
    names = list(results[0][1])
    for number, name in enumerate(names):
        runs = [figures[name] for _, figures in results]
        at = [trace + (number - (len(names) - 1) / 2) * 0.16 for trace in range(len(runs))]
        _bars(lost, at, [f.lost_s_per_100 for f in runs], runs, number, name)
        _bars(worst, at, [f.worst_s / f.bound_s for f in runs], runs, number, name)
    _label(lost, "seconds lost to switching\nper 100 requests")
    _label(worst, "worst wait,\nas a share of the bound")
    worst.axhline(1, color="black", linewidth=1)
    worst.set_xticks(range(len(results)), [trace.name for trace, _ in results], rotation=15)
    lost.legend(ncols=len(names), loc="upper right", fontsize=8, frameon=False)
    lost.set_title(
        "Faded bars: the policy broke the bound there, or somebody gave up waiting", fontsize=9, loc="left"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _bars(
    axes: Any, at: list[float], heights: list[float], runs: list[Figures], number: int, name: str
) -> None:
    bars = axes.bar(at, heights, width=0.15, color=COLOURS[number], label=name)
    for bar, run in zip(bars, runs, strict=True):
        bar.set_alpha(1.0 if run.keeps_bound else 0.3)


def _label(axes: Any, text: str) -> None:
    axes.set_yscale("log")
    axes.set_ylabel(text)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
