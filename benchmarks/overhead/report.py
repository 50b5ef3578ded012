"""The page, written from what was kept: figures, goals, limits, and what was measured on."""

from __future__ import annotations

from typing import Any

from benchmarks.overhead import report_limits, results
from benchmarks.overhead.contenders import COMPILED
from benchmarks.overhead.measure import OPEN_RATE, RATE, STREAMS, TOKENS, Row, against

_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("µs per request", "cpu_us_per_request", ".0f"),
    ("µs per streamed token", "cpu_us_per_token", ".1f"),
    ("requests/s", "requests_per_s", ",.0f"),
    ("added p50 ms", "added_p50_ms", ".2f"),
    ("added p99 ms", "added_p99_ms", ".2f"),
    ("tokens/s through", "tokens_through", ",.0f"),
    ("lag p50 ms", "lag_p50_ms", ".2f"),
    ("lag p99 ms", "lag_p99_ms", ".2f"),
    ("first token p50 ms", "first_p50_ms", ".1f"),
    ("memory MiB", "rss_mib", ".0f"),
)
NGINX, ROUTER, YARDSTICK = "nginx proxy_pass", "vllm-router", "FastAPI + httpx"
OURS = ("gateway, TGI route", "gateway, native route", COMPILED)
_GOALS: tuple[tuple[str, str, str, float], ...] = (
    ("processor time per plain request", "cpu_us_per_request", ROUTER, 1.0),
    ("processor time per plain request", "cpu_us_per_request", YARDSTICK, 1 / 15),
    ("processor time per streamed token", "cpu_us_per_token", ROUTER, 1.0),
    ("token lag p99", "lag_p99_ms", NGINX, 1.5),
    ("first token p50", "first_p50_ms", NGINX, 2.0),
    (f"added p99 at {OPEN_RATE:.0f} requests/s", "added_p99_ms", ROUTER, 1.5),
)
"""What, in which figure, as a multiple of whose, at most."""
_INTRO = f"""# What the gateway costs

All on one machine, in rounds: everybody once, then everybody once more the other way round, and so on.
`python -m benchmarks.overhead` measures and writes this page (add `--quick` for four minutes). The engine is
a small Go program that writes TGI's bytes and stamps every token as it leaves; the load client is Go as well.
Everything of the gateway is on: validation, templates, admission, clocks, metrics, receipts, an access log
line per request. *compiled* is the same gateway after `make compile`, with its hot modules as machine
code.

Figures are medians of the rounds, with the least and the most behind them where they differ.

* *µs* is processor time (user and system) of the whole process tree. It is what compares best: it depends
  little on what else the machine does.
* *per request*: a plain answer of {TOKENS} tokens, 64 connections in a closed loop. The gateway has the
  engine stream even then, all tokens at once here (that is how it knows the first token's instant and sees a
  dead engine); the others forward one body.
* *added*: plain requests at a fixed {OPEN_RATE:.0f} a second, counted from when each was due. Halfway between
  two of them one goes to the engine without anything between. *Added* is the percentile of a second's
  requests through the gateway less that of those beside them, and of all seconds the median: a few bad
  moments of the machine do not decide it.
* *per streamed token*, *lag*, *first token*: {STREAMS} streams of {RATE} tokens/s. Each comes on a new
  connection; they begin evenly over {1000 / RATE:.0f} ms, the distance of two tokens, for everybody alike. So
  the first token is that of a burst. Lag is from the engine's write to the client's read. Processor time
  counts once all have begun: what a request costs is in the other figure.
* *memory*: resident, after all of that.

![processor time, lag and first token](img/overhead.svg)
"""
_GETTING = """## Getting the contenders

The compiled gateway needs gcc and Python's headers; it is built once into the user's cache, and left out
where that cannot be. Go and nginx come from the system (`apt-get install golang-go nginx-light`); without
nginx it is left out, without Go nothing can be measured. vllm-router, and with `--litellm` LiteLLM, are
installed from PyPI into environments of their own in the user's cache. The plain gateway is
[yardstick.py](../benchmarks/overhead/yardstick.py).

A program of yours takes part with `--source-port 9900 --also 'mine=chat+http://127.0.0.1:9901'`: start it at
9901 with `http://127.0.0.1:9900` as its engine. It must speak one of the routes `tgi`, `chat` (OpenAI's),
`native` (this gateway's) and `router` (vllm-router's `/generate`).
"""


def table(rows: list[Row]) -> str:
    head = "| way through | " + " | ".join(name for name, _, _ in _COLUMNS) + " |"
    lines = [head, "|---" * (len(_COLUMNS) + 1) + "|"]
    for row in rows:
        cells = [_cell(row, figure, style) for _, figure, style in _COLUMNS]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Row, figure: str, style: str) -> str:
    value, all_of_them = row.value(figure), row.values(figure)
    if value is None:
        return "–"
    said = format(value, style)
    if figure in row.pooled:
        return said
    low, high = format(min(all_of_them), style), format(max(all_of_them), style)
    return said if low == high else f"{said} ({low}–{high})"


def bottleneck(rows: list[Row]) -> str:
    """That neither the source nor the load client is what limits the others."""
    direct = next((row for row in rows if row.name == "no gateway"), None)
    if direct is None:
        return ""
    said = {name: direct.value(name) or 0 for name in direct.rounds[0]}
    return (
        f"Without a gateway a plain request costs the source {said['source_us_per_request']:.0f} µs and the "
        f"load client {said['load_us_per_request']:.0f} µs, a streamed token "
        f"{said['source_us_per_token']:.1f} and {said['load_us_per_token']:.1f} µs; together they reach "
        f"{said['requests_per_s']:,.0f} requests/s. What the others "
        "reach is their own limit; only nginx comes near to that of source and client.\n"
    )


def goals(rows: list[Row]) -> str:
    by_name = {row.name: row for row in rows}
    ours = [by_name[name] for name in OURS if name in by_name]
    if not ours:
        return ""
    head = "| goal | at most | " + " | ".join(f"{row.name} | reached" for row in ours) + " |"
    lines = [head, "|---" * (2 + 2 * len(ours)) + "|"]
    for what, figure, rival, most in _GOALS:
        if rival not in by_name:
            continue
        limit = f"{most:.1f}" if most >= 1 else f"1/{1 / most:.0f} ({most:.3f})"
        cells = [cell for row in ours for cell in _against(row, by_name[rival], figure, most)]
        lines.append(f"| {what} | {limit} × {rival} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _against(ours: Row, rival: Row, figure: str, most: float) -> tuple[str, str]:
    found = against(ours, rival, figure)
    if found is None:
        return "–", "–"
    ratio, low, high = found
    span = "" if low == high else f" ({low:.2f}–{high:.2f})"
    return f"{ratio:.2f}{span}", "yes" if ratio <= most else "no"


def ratios(rows: list[Row]) -> str:
    """Our rows against each rival: below 1 is cheaper, or sooner."""
    by_name = {row.name: row for row in rows}
    rivals = [by_name[name] for name in (NGINX, ROUTER, YARDSTICK, "LiteLLM") if name in by_name]
    titles = (f"{one.name}: µs per request | per token" for one in rivals)
    lines = ["| ours, as a multiple of | " + " | ".join(titles) + " |", "|---" * (1 + 2 * len(rivals)) + "|"]
    for row in rows:
        if row.name.startswith("gateway"):
            cells = [
                _against(row, one, figure, 0)[0]
                for one in rivals
                for figure in ("cpu_us_per_request", "cpu_us_per_token")
            ]
            lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page() -> str:
    found = results.kept("overhead")
    parts = [_INTRO]
    if found is not None:
        rows = results.rows_of(found["rows"])
        parts += [
            table(rows),
            "",
            bottleneck(rows),
            "## Goals\n",
            goals(rows),
            "",
            "## Ratios\n",
            ratios(rows),
            "",
        ]
        parts += [_machine(found), ""]
    parts += [*report_limits.sections(), _GETTING]
    return "\n".join(parts)


def _machine(found: dict[str, Any]) -> str:
    length = "short" if found["quick"] else "full"
    on = report_limits.machine(found["measured_on"])
    return (
        f"{on}; {found['others']}. A {length} run. Above the number of cores, times are those of a crowded "
        "machine: only processor time counts."
    )
