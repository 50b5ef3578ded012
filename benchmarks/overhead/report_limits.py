"""The page's sections on what one process bears; each from a part that is measured alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.overhead import results


def machine(on: dict[str, str]) -> str:
    return (
        f"Measured on {on['when']}: {on['processor']}, {on['cores']} cores, {on['system']}, load average "
        f"{on['load']} (1, 5, 15 minutes); Python {on['python']}, {on['libraries']}"
    )


def sections() -> list[str]:
    """Those that were measured."""
    found = ((name, results.kept(name)) for name in _SECTIONS)
    return [_SECTIONS[name](kept) for name, kept in found if kept is not None]


_STREAM_LINES: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("held", lambda one: f"{one['held_s']:.0f} s"),
    ("memory before", lambda one: f"{one['before']['rss_mib']:.1f} MiB"),
    ("memory with them", lambda one: f"{one['with']['rss_mib']:.1f} MiB"),
    ("memory of one stream", lambda one: f"{one['kib_per_stream']:.1f} KiB"),
    ("memory after", lambda one: f"{one['after']['rss_mib']:.1f} MiB"),
    ("memory with as many again", lambda one: f"{one['again']['rss_mib']:.1f} MiB"),
    ("file descriptors before", lambda one: f"{one['before']['descriptors']:,}"),
    ("file descriptors with them", lambda one: f"{one['with']['descriptors']:,}"),
    ("file descriptors after", lambda one: f"{one['after']['descriptors']:,}"),
    ("processor time", lambda one: f"{one['busy_percent']:.1f} % of a core"),
    ("tokens/s through", lambda one: f"{one['tokens_through']:,.0f}" if one["rate"] else "–"),
    ("token lag p50", lambda one: f"{one['lag_p50_ms']:.1f} ms" if one["rate"] else "–"),
    ("token lag p99", lambda one: f"{one['lag_p99_ms']:.1f} ms" if one["rate"] else "–"),
    ("plain p50, without them", lambda one: f"{one['alone']['latency_p50_ms']:.2f} ms"),
    ("plain p50, beside them", lambda one: f"{one['plain']['latency_p50_ms']:.2f} ms"),
    ("plain p99, without them", lambda one: f"{one['alone']['latency_p99_ms']:.2f} ms"),
    ("plain p99, beside them", lambda one: f"{one['plain']['latency_p99_ms']:.2f} ms"),
)


def _streams(found: dict[str, Any]) -> str:
    phases = found["phases"]
    lines = ["| | " + " | ".join(_named(one) for one in phases) + " |", "|---" * (1 + len(phases)) + "|"]
    lines += [f"| {what} | " + " | ".join(map(said, phases)) + " |" for what, said in _STREAM_LINES]
    return f"""## Streams that one process holds

`python -m benchmarks.limits` opens streams and holds them: idle ones have got their first token, then the
engine is silent; active ones get tokens all the time, whose lag counts once all have begun. Meanwhile plain
requests come at {found["plain_rate"]:.0f} a second, and are compared with the same before there were streams.
Then all clients leave at once, and as many come again: memory that Python got from the system it keeps and
uses again, so the same ones must fit into it. A stream costs the gateway two sockets;
{found["descriptors_limit"]:,} file descriptors are allowed here.

{chr(10).join(lines)}

{machine(found["measured_on"])}.
"""


def _named(one: dict[str, Any]) -> str:
    rate = f" at {one['rate']} tokens/s" if one["rate"] else ""
    return f"{one['streams']:,} {one['kind']}{rate}"


def _million(found: dict[str, Any]) -> str:
    base, last = found["memory"].get("10000"), found["memory"][str(found["done"])]
    lines = ["| plain requests | memory MiB |", "|---|---|"]
    lines += [
        f"| {int(count):,} | {mib:.1f} |"
        for count, mib in found["memory"].items()
        if _round(int(count), found)
    ]
    growth = "" if base is None else f" Growth since ten thousand: {100 * (last / base - 1):+.1f} %"
    goal = f" (goal for a million: 3 %{_reached(found, base, last)})." if growth else ""
    return f"""## Memory over many requests

`python -m benchmarks.limits --requests {found["asked"]}` sends them over 16 connections, and looks at the
gateway's resident memory when nothing runs.{growth}{goal}

{chr(10).join(lines)}

{machine(found["measured_on"])}.
"""


def _reached(found: dict[str, Any], base: float, last: float) -> str:
    if found["done"] < 1_000_000:
        return "; not measured yet"
    return f"; reached: {'yes' if last / base <= 1.03 else 'no'}"


def _round(count: int, found: dict[str, Any]) -> bool:
    return count == found["done"] or count in (10_000, 50_000, 100_000) or count % 250_000 == 0


def _workers(found: dict[str, Any]) -> str:
    title = "## Several worker processes\n\n"
    if "why_not" in found:
        return f"{title}Not measured: {found['why_not']}\n"
    lines = [
        "| workers | requests/s | µs per request | µs per streamed token | memory MiB |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['workers']} | {one['requests_per_s']:,.0f} | {one['cpu_us_per_request']:.0f} | "
        f"{one['cpu_us_per_token']:.1f} | {one['rss_mib']:.0f} |"
        for one in found["runs"]
    ]
    text = (
        f"`python -m benchmarks.limits --workers {found['asked']}`: medians of {found['rounds']} rounds; "
        "workers, engine and load client share the cores.\n\n"
    )
    return f"{title}{text}{chr(10).join(lines)}\n\n{machine(found['measured_on'])}.\n"


_SECTIONS = {"streams": _streams, "requests": _million, "workers": _workers}
