"""The picture: processor time per request and per token, on one scale each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.overhead.measure import Figures

_OURS, _OTHERS = "#1b6ca8", "#9a9a9a"


def draw(rows: list[Figures], path: Path) -> None:
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "overhead"  # the same figures give the same file
    from matplotlib import pyplot as plt  # after the choice of its backend

    weighed = [row for row in rows if row.cpu_us_per_request is not None]
    figure, (request, token) = plt.subplots(1, 2, figsize=(11, 3.2), sharey=True, layout="constrained")
    _bars(
        request,
        weighed,
        [row.cpu_us_per_request or 0 for row in weighed],
        "µs of processor time per plain request",
    )
    _bars(
        token,
        weighed,
        [row.cpu_us_per_token or 0 for row in weighed],
        "µs of processor time per streamed token",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _bars(axes: Any, rows: list[Figures], widths: list[float], label: str) -> None:
    names = [row.name for row in rows]
    colours = [_OURS if name.startswith("gateway") else _OTHERS for name in names]
    bars = axes.barh(names, widths, color=colours)
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.set_xlabel(label)
    axes.margins(x=0.15)
    axes.invert_yaxis() if not axes.yaxis_inverted() else None
    axes.spines[["top", "right"]].set_visible(False)
