"""InfluxQL for panels, in the part of the language that InfluxDB 1.x, 2.x and 3 share as far as it goes.

All of it is per step (``$__interval``) and per flush of Telegraf:

* counters hold what was added, so a rate is their sum over the length of the step;
* percentiles cannot be averaged, so a panel shows the worst of the step, and says so;
* means are the sum of sums over the sum of counts, which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

from monitoring.grafana.board import Target, Text

# The measurement carries host and model; All is ``.*`` and so also finds series without the tag.
HOST = '"host" =~ /^${host:regex}$/'
MODEL = '"model" =~ /^${model:regex}$/'
PERCENTILES = (("50", "50_percentile"), ("95", "95_percentile"), ("99", "99_percentile"))


def measurement(name: str, retention: str = "raw") -> str:
    return f'"{retention}"."gw_{name}"'


def target(query: str, alias: str | Text) -> Target:
    return Target(query, alias if isinstance(alias, Text) else Text(alias, alias))


def _where(where: str, *, by_model: bool) -> str:
    parts = ["$timeFilter", HOST, *([MODEL] if by_model else []), *([where] if where else [])]
    return " AND ".join(parts)


def _group(by: Sequence[str]) -> str:
    return "".join(f', "{tag}"' for tag in by)


def select(
    what: str,
    name: str,
    by: Sequence[str] = (),
    *,
    where: str = "",
    fill: str = "null",
    by_model: bool = True,
    retention: str = "raw",
) -> str:
    """``what`` in each step, one series per value of ``by``."""
    return (
        f"SELECT {what} FROM {measurement(name, retention)} WHERE {_where(where, by_model=by_model)} "
        f"GROUP BY time($__interval){_group(by)} fill({fill})"
    )


def rate(
    name: str,
    by: Sequence[str] = (),
    alias: str | Text = "$tag_model",
    *,
    where: str = "",
    by_model: bool = True,
    retention: str = "raw",
) -> Target:
    """What a counter grows by in a second."""
    what = 'sum("value") * 1000 / $__interval_ms'
    query = select(what, name, by, where=where, fill="0", by_model=by_model, retention=retention)
    return target(query, alias)


def added(
    name: str,
    by: Sequence[str] = (),
    alias: str | Text = "$tag_model",
    *,
    where: str = "",
    by_model: bool = True,
    retention: str = "raw",
) -> Target:
    """What a counter grows by in a step."""
    query = select('sum("value")', name, by, where=where, fill="0", by_model=by_model, retention=retention)
    return target(query, alias)


def gauge(
    name: str,
    by: Sequence[str] = (),
    alias: str | Text = "$tag_model",
    *,
    where: str = "",
    how: str = "last",
    by_model: bool = True,
) -> Target:
    """A gauge as it was: its last value of the step, or another one of it."""
    return target(select(f'{how}("value")', name, by, where=where, by_model=by_model), alias)


def total_of_gauge(
    name: str, by: Sequence[str], alias: str | Text, *, where: str = "", by_model: bool = True
) -> Target:
    """A gauge added up over its series: each series' last value of the step, then their sum."""
    inner = select('last("value") AS "v"', name, by, where=where, by_model=by_model)
    query = f'SELECT sum("v") FROM ({inner}) WHERE $timeFilter GROUP BY time($__interval) fill(null)'
    return target(query, alias)


def percentile(
    name: str,
    field: str,
    by: Sequence[str] = (),
    alias: str | Text = "$tag_model",
    *,
    where: str = "",
    by_model: bool = True,
    retention: str = "raw",
) -> Target:
    """The worst of a percentile (or of ``upper``) over all series and flushes of the step."""
    query = select(f'max("{field}")', name, by, where=where, by_model=by_model, retention=retention)
    return target(query, alias)


def percentiles(name: str, *, where: str = "", retention: str = "raw") -> tuple[Target, ...]:
    """P50, P95 and P99, the worst of each over what is chosen."""
    return tuple(
        percentile(name, field, alias=f"P{number}", where=where, retention=retention)
        for number, field in PERCENTILES
    )


def mean(
    name: str,
    by: Sequence[str] = (),
    alias: str | Text = "$tag_model",
    *,
    where: str = "",
    by_model: bool = True,
) -> Target:
    """The true mean of a timing."""
    return target(select('sum("sum") / sum("count")', name, by, where=where, by_model=by_model), alias)


def share(
    name: str,
    part: str,
    by: Sequence[str] = (),
    alias: str | Text = "$tag_model",
    *,
    where: str = "",
    by_model: bool = True,
) -> Target:
    """Per cent of a counter that fulfils ``part``, such as ``"status" =~ /^5/``, of all that is ``where``."""
    source = measurement(name)
    both = f"{part} AND {where}" if where else part
    everything = f'SELECT "value" AS "all" FROM {source} WHERE {_where(where, by_model=by_model)}'
    some = f'SELECT "value" AS "some" FROM {source} WHERE {_where(both, by_model=by_model)}'
    query = (
        f'SELECT 100 * sum("some") / sum("all") FROM ({everything}), ({some}) '
        f"WHERE $timeFilter GROUP BY time($__interval){_group(by)} fill(0)"
    )
    return target(query, alias)


def coded(name: str, tag: str, codes: Sequence[tuple[str, int]], by: Sequence[str]) -> Target:
    """A gauge that is 1 for one of several values of ``tag``, as one series of numbers: the value's code."""
    parts = [
        "("
        + select(f'last("value") * {code} AS "v"', name, by, where=f"\"{tag}\" = '{value}'", fill="none")
        + ")"
        for value, code in codes
    ]
    query = (
        f'SELECT sum("v") FROM {", ".join(parts)} WHERE $timeFilter '
        f"GROUP BY time($__interval){_group(by)} fill(none)"
    )
    return target(query, f"$tag_{by[0]}")


def raw(
    name: str, what: str, by: Sequence[str] = (), alias: str | Text = "$tag_host", *, fill: str = "null"
) -> Target:
    """A measurement that is not ours: Telegraf's own and the host's."""
    query = (
        f'SELECT {what} FROM "raw"."{name}" WHERE $timeFilter AND {HOST} '
        f"GROUP BY time($__interval){_group(by)} fill({fill})"
    )
    return target(query, alias)
