"""A pipeline that is down costs the gateway nothing, and what was lost is said."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import Running, model, start_echo, start_gateway, until
from processes import Influx, Telegraf
from traffic import Clients, Tally, paced

pytestmark = pytest.mark.pipeline
OUTAGE_S = 30.0
RATE = 6.0
SLOWER_MS = 100
"""What the outage may add to the slowest twentieth of requests: noise of two cores, nothing that blocks."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A gateway whose figures are kept, and one beside it that sends none: both have the machine's noise."""

    gateway: Running
    silent: Running
    telegraf: Telegraf
    influx: Influx

    @property
    def stored(self) -> float:
        return self.influx.total("gw_requests")


@pytest.fixture
def watched(programs: dict[str, str], tmp_path: Path) -> Iterator[Watched]:
    with contextlib.ExitStack() as ends:
        influx = Influx(programs["influxdb"], tmp_path / "influx")
        ends.callback(influx.end)
        influx.ready()
        influx.set_up()
        telegraf = Telegraf(programs["telegraf"], tmp_path, influx.url)
        ends.callback(telegraf.end)
        telegraf.ready()
        engine = start_echo(tmp_path, tokens_per_s=200)
        ends.callback(engine.stop)
        registry = {"models": [model(engine.url, id="steady")]}
        gateway = start_gateway(tmp_path, registry, statsd_host="127.0.0.1", statsd_port=telegraf.port)
        ends.callback(gateway.stop)
        silent = start_gateway(tmp_path, registry)
        ends.callback(silent.stop)
        yield Watched(gateway, silent, telegraf, influx)


async def _load(gateway: Running, tally: Tally, lasting_s: float) -> None:
    clients = Clients(gateway.url, tally)
    try:
        await paced(RATE, lasting_s, lambda _: clients.ask("steady", 8))
    finally:
        await clients.close()


async def _both(watched: Watched, told: Tally, silent: Tally, lasting_s: float) -> None:
    await asyncio.gather(
        _load(watched.gateway, told, lasting_s),
        _load(watched.silent, silent, lasting_s),
    )


def _traffic(watched: Watched, lasting_s: float) -> tuple[Tally, Tally]:
    """The same load on both gateways; what their clients counted."""
    told, silent = Tally(), Tally()
    asyncio.run(_both(watched, told, silent, lasting_s))
    return told, silent


def _answered(tally: Tally) -> int:
    return tally.statuses["2xx"]


def _p95(tally: Tally) -> float:
    return statistics.quantiles(tally.durations_ms["steady"], n=20)[-1]


def _outage(watched: Watched, kill: Callable[[], None], revive: Callable[[], None]) -> tuple[Tally, Tally]:
    """Traffic before, and traffic while something is away for OUTAGE_S, which clients must not notice."""
    before, _ = _traffic(watched, 3)
    kill()
    during, beside = _traffic(watched, OUTAGE_S)
    revive()
    assert during.statuses == {"2xx": int(RATE * OUTAGE_S)}
    assert _p95(during) <= _p95(beside) + SLOWER_MS
    return before, during


def test_without_influxdb_for_30_s_requests_go_on_and_no_figure_is_lost(watched: Watched) -> None:
    before, during = _outage(watched, watched.influx.kill, watched.influx.ready)
    wanted = _answered(before) + _answered(during)
    until(lambda: watched.stored >= wanted, f"{wanted} requests out of Telegraf's buffer", 30)
    assert watched.stored == wanted


def test_without_telegraf_for_30_s_requests_go_on_and_the_loss_is_said(watched: Watched) -> None:
    before, during = _outage(watched, watched.telegraf.kill, watched.telegraf.ready)
    after, _ = _traffic(watched, 3)
    counted = sum(_answered(tally) for tally in (before, during, after))
    until(lambda: watched.stored >= _answered(after), "the figures from after the outage")
    assert watched.gateway.metric("gateway_requests_total") == counted, "the page for Prometheus lost nothing"
    assert watched.stored < counted
    lost = watched.gateway.metric("gateway_metrics_dropped_total")
    assert lost > 0
    until(lambda: watched.influx.total("gw_metrics_dropped") == lost, f"the loss of {lost} in InfluxDB")
