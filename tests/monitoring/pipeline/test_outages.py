"""A pipeline that is down costs the gateway nothing, and what was lost is said."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Running, model, start_echo, start_gateway, until
from processes import Influx, Telegraf
from traffic import Clients, Tally, paced

pytestmark = pytest.mark.pipeline
OUTAGE_S = 30.0
RATE = 8.0
SLOWER_MS = 100
"""What an outage may add to the slowest twentieth of requests: noise of two cores, nothing that blocks."""


@pytest.fixture
def own_telegraf(programs: dict[str, str], database: Influx, tmp_path: Path) -> Iterator[Telegraf]:
    process = Telegraf(programs["telegraf"], tmp_path, database.url)
    try:
        process.ready()
        yield process
    finally:
        process.end()


@pytest.fixture
def gateway(own_telegraf: Telegraf, tmp_path: Path) -> Iterator[Running]:
    engine = start_echo(tmp_path, tokens_per_s=200)
    registry = {"models": [model(engine.url, id="steady")]}
    running = start_gateway(tmp_path, registry, statsd_host="127.0.0.1", statsd_port=own_telegraf.port)
    try:
        yield running
    finally:
        running.stop()
        engine.stop()


async def _load(gateway: Running, tally: Tally, lasting_s: float) -> None:
    clients = Clients(gateway.url, tally)
    try:
        await paced(RATE, lasting_s, lambda _: clients.ask("steady", 8))
    finally:
        await clients.close()


def _traffic(gateway: Running, lasting_s: float) -> Tally:
    tally = Tally()
    asyncio.run(_load(gateway, tally, lasting_s))
    return tally


def _p95(tally: Tally) -> float:
    return statistics.quantiles(tally.durations_ms["steady"], n=20)[-1]


def _outage(gateway: Running, kill: Callable[[], None], revive: Callable[[], None]) -> tuple[Tally, Tally]:
    """Traffic before, and traffic in the middle of which something is away for OUTAGE_S."""
    before = _traffic(gateway, 5)
    kill()
    during = _traffic(gateway, OUTAGE_S)
    revive()
    return before, during


def _nothing_happened_to_clients(before: Tally, during: Tally) -> None:
    assert during.statuses == {"2xx": int(RATE * OUTAGE_S)}
    assert _p95(during) <= _p95(before) + SLOWER_MS


def _stored(influx: Influx, since_s: float) -> float:
    where = f"\"model\" = 'steady' AND time >= {int(since_s * 1000)}ms"
    return influx.total("gw_requests", where)


def test_without_influxdb_for_30_s_requests_go_on_and_no_figure_is_lost(
    gateway: Running, own_telegraf: Telegraf, database: Influx
) -> None:
    since_s = time.time()
    before, during = _outage(gateway, database.kill, database.ready)
    _nothing_happened_to_clients(before, during)
    wanted = before.statuses["2xx"] + during.statuses["2xx"]
    until(lambda: _stored(database, since_s) >= wanted, f"{wanted} requests out of Telegraf's buffer", 30)
    assert _stored(database, since_s) == wanted


def test_without_telegraf_for_30_s_requests_go_on_and_the_loss_is_said(
    gateway: Running, own_telegraf: Telegraf, database: Influx
) -> None:
    since_s = time.time()
    before, during = _outage(gateway, own_telegraf.kill, own_telegraf.ready)
    _nothing_happened_to_clients(before, during)
    after = _traffic(gateway, 3)
    counted = sum(tally.statuses["2xx"] for tally in (before, during, after))
    until(
        lambda: _stored(database, since_s) >= before.statuses["2xx"] + after.statuses["2xx"] - RATE,
        "the figures from before and after",
    )
    assert gateway.metric("gateway_requests_total") >= counted, "Prometheus' page has lost nothing"
    assert _stored(database, since_s) < counted
    assert gateway.metric("gateway_metrics_dropped_total") > 0
    until(
        lambda: database.total("gw_metrics_dropped", f"time >= {int(since_s * 1000)}ms") > 0,
        "the loss in InfluxDB",
    )
