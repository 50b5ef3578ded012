"""The picture: what everybody costs, and how late tokens are; a line at each goal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.overhead.measure import Row

_OURS, _OTHERS, _GOAL = "#1b6ca8", "#9a9a9a", "#c03a2b"
_PANELS: tuple[tuple[str, str, str, float], ...] = (
    ("cpu_us_per_request", "µs of processor time per plain request", "vllm-router", 1.0),
    ("cpu_us_per_token", "µs of processor time per streamed token", "vllm-router", 1.0),
    ("lag_p99_ms", "ms that 99 of 100 tokens are late at most", "nginx proxy_pass", 1.5),
    ("first_p50_ms", "ms to the first token, half of all streams", "nginx proxy_pass", 2.0),
)
"""Figure, what it is, and the goal: so many times whose."""
_CUT = ("LiteLLM",)


def draw(rows: list[Row], path: Path) -> None:
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "overhead"  # the same figures give the same file
    from matplotlib import pyplot as plt  # after the choice of its backend
    from matplotlib.lines import Line2D

    weighed = [row for row in rows if row.value("cpu_us_per_request") is not None]
    figure, panels = plt.subplots(
        2, 2, figsize=(11, 0.8 + 0.7 * len(weighed)), sharey=True, layout="constrained"
    )
    for axes, (name, label, rival, times) in zip(panels.flat, _PANELS, strict=True):
        goal = next((row.value(name) for row in weighed if row.name == rival), None)
        _bars(axes, weighed, name, label)
        if goal is not None:
            axes.axvline(times * goal, color=_GOAL, linestyle="--", linewidth=1)
    figure.legend(
        handles=[Line2D([], [], color=_GOAL, linestyle="--", label="goal for the gateway")],
        loc="outside lower center",
        frameon=False,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _bars(axes: Any, rows: list[Row], name: str, label: str) -> None:
    names = [row.name for row in rows]
    values = [row.value(name) or 0 for row in rows]
    colours = [_OURS if one.startswith("gateway") else _OTHERS for one in names]
    spans = [
        (value - min(row.values(name)), max(row.values(name)) - value)
        for row, value in zip(rows, values, strict=True)
    ]
    error = [[low for low, _ in spans], [high for _, high in spans]]
    # Whoever costs many times what the others do would leave no room for them: such a bar is cut off.
    room = 1.2 * max(value for one, value in zip(names, values, strict=True) if one not in _CUT)
    axes.barh(names, values, color=colours, xerr=error, error_kw={"ecolor": "#444444", "elinewidth": 0.8})
    for place, value in enumerate(values):
        said = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
        cut = value > room
        where = room if cut else value + error[1][place]
        inside = where > 0.9 * room
        axes.annotate(
            said,
            (min(where, room), place),
            xytext=(-4 if inside else 4, 0),
            textcoords="offset points",
            va="center",
            ha="right" if inside else "left",
            color="white" if cut else "black",
            bbox=None if cut else {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
        )
    axes.set_xlim(0, room)
    axes.set_xlabel(label)
    axes.invert_yaxis() if not axes.yaxis_inverted() else None
    axes.spines[["top", "right"]].set_visible(False)
