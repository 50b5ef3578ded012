"""The pictures. The same results give the same files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

from loadtest import knee
from loadtest.report import figures
from loadtest.results import PartData, Results

BLUE, ORANGE, GREEN, RED, GREY, VIOLET = "#1b6ca8", "#d9822b", "#2e8b57", "#c0392b", "#9a9a9a", "#7d5ba6"
COLOURS: Final = (BLUE, ORANGE, GREEN, VIOLET)
_STATES: Final = {"ready": 0.18, "starting": 0.0, "draining": 0.08, "stopping": 0.0}
_BINS = 60


@contextmanager
def drawn(path: Path, rows: int, height: float, columns: int = 1) -> Iterator[Any]:
    """The axes of a new picture, saved at the end."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "loadtest"
    from matplotlib import pyplot as plt  # after the choice of its backend

    figure, axes = plt.subplots(rows, columns, figsize=(10, height), layout="constrained", squeeze=False)
    yield [one for line in axes for one in line]
    for line in axes:
        for one in line:
            one.spines[["top", "right"]].set_visible(False)
            one.set_ylim(bottom=0) if one.get_yscale() == "linear" else None
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def over_time(part: PartData, path: Path) -> None:
    """Requests, latency, who is in, tokens: four panels over the seconds of one part."""
    width = max(1.0, part.seconds / _BINS)
    with drawn(path, 4, 10) as (rate, latency, inside, tokens):
        bins = figures.binned(part.records, part.began, width, part.ended)
        _rates(rate, bins, width)
        _latency(latency, bins)
        _inside(inside, part)
        _tokens(tokens, part)
        for axes in (rate, latency, inside, tokens):
            axes.set_xlim(0, part.seconds)
            _shade(axes, part)
        tokens.set_xlabel("seconds; background: which model is in, white: none (switching)")
        names = _names(part)
        patches = [
            _patch(facecolor=colour, alpha=_STATES["ready"])
            for colour, _ in zip(COLOURS, names, strict=False)
        ]
        tokens.legend(
            patches,
            [f"{name} is in" for name in names],
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncols=4,
            frameon=False,
            borderaxespad=0.1,
        )


def _legend(axes: Any, columns: int) -> None:
    """Above the panel, where no line is."""
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=columns, frameon=False, borderaxespad=0.1)


def _rates(axes: Any, bins: Any, width: float) -> None:
    times = [middle for middle, _ in bins]
    for outcome, colour in (("ok", GREEN), ("left", GREY), ("refused", ORANGE), ("failed", RED)):
        counts = [sum(one.outcome == outcome for one in found) / width for _, found in bins]
        if any(counts) or outcome == "failed":
            axes.plot(times, counts, color=colour, label=_OUTCOMES[outcome])
    axes.set_ylabel("requests/s")
    _legend(axes, 4)


_OUTCOMES: Final = {"ok": "answered", "left": "left by the user", "refused": "refused", "failed": "errors"}


def _latency(axes: Any, bins: Any) -> None:
    times = [middle for middle, _ in bins]
    for q, name, colour in ((0.5, "P50", GREEN), (0.95, "P95", ORANGE), (0.99, "P99", RED)):
        values = [
            figures.quantile_of((one.total_ms / 1000 for one in found if one.outcome == "ok"), q)
            for _, found in bins
        ]
        axes.plot(times, [float("nan") if v is None else v for v in values], color=colour, label=name)
    axes.set_ylabel("whole answer, s")
    _legend(axes, 3)


def _inside(axes: Any, part: PartData) -> None:
    rows = _thinned(part.samples)
    times = [row["t"] - part.began for row in rows]
    flight = [sum(row["in_flight"].values()) for row in rows]
    queued = [sum(row["queued"].values()) for row in rows]
    axes.plot(times, flight, color=BLUE, label="in the engine")
    axes.plot(times, queued, color=RED, label="waiting (queue)")
    axes.set_ylabel("requests")
    _legend(axes, 2)


def _thinned(rows: Sequence[Any]) -> Sequence[Any]:
    """As many as a picture can show."""
    return rows[:: max(1, len(rows) // 400)]


def _tokens(axes: Any, part: PartData) -> None:
    rows = part.samples
    times, values = [], []
    step = max(1, len(rows) // _BINS)
    for before, after in zip(rows[::step], rows[step::step], strict=False):
        times.append((before["t"] + after["t"]) / 2 - part.began)
        values.append((after["tokens_out"] - before["tokens_out"]) / (after["t"] - before["t"]))
    axes.plot(times, values, color=VIOLET)
    axes.set_ylabel("tokens/s, all")


def _names(part: PartData) -> list[str]:
    return sorted({name for row in part.samples for name in row["state"]})


def _patch(**style: Any) -> Any:
    from matplotlib.patches import Patch

    return Patch(**style)


def _shade(axes: Any, part: PartData) -> None:
    """Which model is in, as a background: one patch for as long as it stays so."""
    names = _names(part)
    for name in names:
        states = [(row["t"] - part.began, row["state"].get(name, "")) for row in part.samples]
        since, last = states[0] if states else (0.0, "")
        for at, state in [*states[1:], (part.seconds, "end")]:
            if state == last:
                continue
            if alpha := _STATES.get(last, 0.0):
                colour = COLOURS[names.index(name) % len(COLOURS)]
                axes.axvspan(since, at, color=colour, alpha=alpha, linewidth=0)
            since, last = at, state


def distributions(part: PartData, path: Path) -> None:
    """What share of answers took at most how long, for each model."""
    done = [record for record in part.records if record.outcome == "ok"]
    with drawn(path, 2, 7, 2) as (total, own, first, gaps):
        for colour, model in zip(COLOURS, figures.models(done), strict=False):
            ours = [record for record in done if record.model == model]
            _shares(total, [one.total_ms / 1000 for one in ours], model, colour)
            _shares(own, [figures.own_ms(one) / 1000 for one in ours], model, colour)
            _shares(first, [one.first_token_ms / 1000 for one in ours if one.first_token_ms], model, colour)
            _shares(gaps, [gap for one in ours for gap in one.gaps_ms], model, colour)
        total.set_xlabel("whole answer, s")
        own.set_xlabel("the same without waiting for turn and load, s")
        first.set_xlabel("first token at the client, s")
        gaps.set_xlabel("between tokens at the client, ms")
        gaps.set_xscale("symlog", linthresh=1)
        for axes in (total, own, first, gaps):
            axes.set_ylabel("share of answers")
        gaps.set_ylabel("share of tokens")
        total.legend(loc="lower right", frameon=False)


def _shares(axes: Any, values: Sequence[float], label: str, colour: str) -> None:
    if not values:
        return
    ordered = sorted(values)
    # A picture needs no more points than that.
    step = max(1, len(ordered) // 500)
    points = [*range(0, len(ordered), step), len(ordered) - 1]
    axes.plot(
        [ordered[index] for index in points],
        [(index + 1) / len(ordered) for index in points],
        color=colour,
        label=label,
        drawstyle="steps-post",
    )


def programs(part: PartData, path: Path) -> None:
    """What gateway, engines and Locust took: processor, memory, descriptors; and cards, if there are any."""
    cards = any(row["gpu"] for row in part.samples)
    with drawn(path, 4 if cards else 3, 9 if cards else 7) as panels:
        cpu, memory, handles = panels[:3]
        for colour, program in zip((BLUE, ORANGE, GREY), ("gateway", "engines", "locust"), strict=True):
            _cpu(cpu, part, program, colour)
            _level(memory, part, program, "rss", 2**20, colour)
        _level(handles, part, "gateway", "fds", 1, BLUE, "descriptors of the gateway")
        _level(handles, part, "gateway", "sockets", 1, ORANGE, "of these sockets")
        cpu.set_ylabel("processor, cores")
        memory.set_ylabel("resident, MiB")
        handles.set_ylabel("number")
        if cards:
            _card(panels[3], part)
        for axes in panels:
            axes.set_xlim(0, part.seconds)
            _legend(axes, 3)
        panels[-1].set_xlabel("seconds")


def _cpu(axes: Any, part: PartData, program: str, colour: str) -> None:
    found = [(row["t"], figures.together(row[program])) for row in part.samples if row.get(program)]
    step = max(1, len(found) // _BINS)
    times, values = [], []
    for (t0, before), (t1, after) in zip(found[::step], found[step::step], strict=False):
        times.append((t0 + t1) / 2 - part.began)
        # An engine that has gone takes its seconds along.
        values.append(max(0.0, after["cpu_s"] - before["cpu_s"]) / (t1 - t0))
    axes.plot(times, values, color=colour, label=program)


def _level(
    axes: Any, part: PartData, program: str, name: str, unit: float, colour: str, label: str | None = None
) -> None:
    rows = _thinned([row for row in part.samples if row.get(program)])
    found = [(row["t"], figures.together(row[program])) for row in rows]
    times = [t - part.began for t, _ in found]
    axes.plot(times, [one[name] / unit for _, one in found], color=colour, label=label or program)


def _card(axes: Any, part: PartData) -> None:
    rows = [row for row in part.samples if row["gpu"]]
    for index in range(len(rows[0]["gpu"])):
        times = [row["t"] - part.began for row in rows]
        used = [row["gpu"][index].get("utilisation_percent", 0.0) for row in rows]
        axes.plot(times, used, color=COLOURS[index % len(COLOURS)], label=f"card {index}, % busy")
    axes.set_ylabel("GPU")


def saturation(found: Results, path: Path) -> None:
    """The ramp: answers and latency over the number of sources; and the same at the knee and at twice."""
    ramp, held, twice = found.part("ramp"), found.part("knee"), found.part("twice")
    assert ramp is not None and held is not None and twice is not None  # noqa: S101, PT018  asked before
    options = found.head["options"]
    steps = knee.steps(ramp.records, ramp.began, options["step"], options["step_users"])
    with drawn(path, 2, 7) as (answers, latency):
        sources = [step.users for step in steps]
        for name, colour in (("offered", GREY), ("answered", GREEN), ("refused", ORANGE)):
            values = [getattr(step, name) for step in steps]
            answers.plot(sources, values, color=colour, marker="o", label=name)
        for q, colour in (("p50", GREEN), ("p99", RED)):
            values = [(getattr(step.latency, q) or 0) / 1000 for step in steps]
            latency.plot(sources, values, color=colour, marker="o", label=f"{q.upper()} of the ramp")
        for part, marker, name in (
            (held, "s", "answered, held at the knee"),
            (twice, "D", "answered, twice"),
        ):
            step = knee.held(part.records, part.began, part.ended, part.raw["users"])
            answers.plot([step.users], [step.answered], color=BLUE, marker=marker, linestyle="", label=name)
            for q, colour in (("p50", GREEN), ("p99", RED)):
                value = (getattr(step.latency, q) or 0) / 1000
                latency.plot([step.users], [value], color=colour, marker=marker, linestyle="", markersize=9)
        answers.set_ylabel("requests/s (offered: new ones)")
        latency.set_ylabel("whole answer, s")
        latency.set_xlabel("sources (squares: held at the knee; diamonds: twice that)")
        _legend(answers, 5)
        _legend(latency, 2)
