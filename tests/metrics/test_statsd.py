"""Lines: what is sent, how large, what of it is exact, and what happens when nobody listens."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import time
from collections.abc import Iterator

import pytest
from harness import free_port
from metrics.statsd_listener import DATAGRAM_BYTES, StatsdListener

from gateway import metrics_statsd, telemetry
from gateway.metrics import TABLE, Metrics, clean
from gateway.metrics_statsd import Listener, tell

LINE = re.compile(
    r"gw(\.[a-z_]+)(,[a-z_]+=[A-Za-z0-9_.-]+)*"
    r":(-?[0-9]+\|c|[0-9.]+\|g|[0-9.]+\|ms(\|@[0-9.]+)?(:[0-9.]+\|ms(\|@[0-9.]+)?)*)"
)
GAPS = "gateway_between_tokens_seconds"


@pytest.fixture
def listener() -> Iterator[StatsdListener]:
    listening = StatsdListener()
    yield listening
    listening.leave()


@pytest.fixture
def sender(listener: StatsdListener) -> Iterator[Listener]:
    with contextlib.closing(Listener(socket.AF_INET, ("127.0.0.1", listener.port), "gw")) as sending:
        yield sending


def record_everything(metrics: Metrics, times: int = 3) -> None:
    for row in TABLE:
        labels = dict.fromkeys(row.labels, "org/model a=b,c:d|e\n")
        for number in range(times):
            if row.kind == "counter":
                metrics.count(row.name, **labels)
            elif row.kind == "gauge":
                metrics.gauge(row.name, number, **labels)
            else:
                metrics.observe(row.name, 0.01 * (number + 1), **labels)


def test_every_figure_is_a_line_that_telegraf_reads(listener: StatsdListener, sender: Listener) -> None:
    metrics = Metrics(keep_values=True)
    record_everything(metrics)
    assert tell(sender, metrics, ",host=gpu1") == {}
    told = listener.hear()
    lines = b"\n".join(listener.datagrams).decode().split("\n")
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    names = {name for name, _ in (*told.counters, *told.gauges, *told.timings)}
    assert names == {f"gw.{row.short}" for row in TABLE}
    assert all("host=gpu1" in line for line in lines)


def test_what_means_something_in_a_line_never_stands_in_a_tag() -> None:
    assert clean("org/model a=b,c:d|e\n") == "org_model_a_b_c_d_e_"
    assert clean("") == "none"


def test_counters_are_sent_as_what_they_grew_by(listener: StatsdListener, sender: Listener) -> None:
    metrics = Metrics(keep_values=True)
    for amount in (3, 4):
        metrics.count("gateway_tokens_out_total", amount, model="m", arm="none")
        tell(sender, metrics, "")
    tell(sender, metrics, "")
    assert listener.hear().count("gw.tokens_out", model="m") == 7
    assert len([d for d in listener.datagrams if b"tokens_out" in d]) == 2


def test_fractions_of_a_counter_wait_until_they_are_whole(listener: StatsdListener, sender: Listener) -> None:
    """Telegraf cuts them off."""
    metrics = Metrics(keep_values=True)
    for _ in range(25):
        metrics.count("gateway_switch_lost_seconds_total", 0.1, model="m")
        tell(sender, metrics, "")
    assert listener.hear().count("gw.switch_lost_seconds", model="m") == 2


def test_a_hundred_thousand_gaps_are_a_few_datagrams_with_exact_counts(
    listener: StatsdListener, sender: Listener
) -> None:
    metrics, chance = Metrics(keep_values=True), random.Random(5)
    gaps = [chance.lognormvariate(-3.5, 0.6) for _ in range(100_000)]
    for gap in gaps:
        metrics.observe(GAPS, gap, model="m", arm="none")
    tell(sender, metrics, "")
    found, wanted = listener.hear().values("gw.between_tokens"), sorted(1000 * gap for gap in gaps)
    assert len(found) == len(wanted)
    assert sum(found) == pytest.approx(sum(wanted), rel=1e-4)
    for share in (0.5, 0.9, 0.99):
        place = int(share * len(wanted))
        assert found[place] == pytest.approx(wanted[place], rel=0.02)
    assert all(len(datagram) < DATAGRAM_BYTES for datagram in listener.datagrams)
    assert len(listener.datagrams) < 20


@pytest.mark.parametrize("times", [2, 3, 7, 49, 93, 1000, 99_999])
def test_a_sample_rate_stands_for_exactly_so_many_values(
    listener: StatsdListener, sender: Listener, times: int
) -> None:
    metrics = Metrics(keep_values=True)
    for _ in range(times):
        metrics.observe(GAPS, 0.05, model="m", arm="none")
    tell(sender, metrics, "")
    assert listener.hear().values("gw.between_tokens") == pytest.approx([50.0] * times)


def test_large_values_are_not_told_last(listener: StatsdListener, sender: Listener) -> None:
    """A daemon that keeps the latest values for its percentiles would keep no others."""
    metrics = Metrics(keep_values=True)
    for number in range(2000):
        metrics.observe(GAPS, 0.001 + number / 1000, model="m", arm="none")
    tell(sender, metrics, "")
    listener.hear()
    (series,) = listener.told.timings.values()
    last = series[-500:]
    assert 0.7e3 < sum(last) / len(last) < 1.3e3


def test_nobody_listening_costs_nothing_and_is_said_when_somebody_does(
    listener: StatsdListener, sender: Listener
) -> None:
    metrics = Metrics(keep_values=True)
    listener.leave()
    lost = 0
    for _ in range(30):
        record_everything(metrics)
        begun = time.process_time()
        for why, lines in tell(sender, metrics, "").items():
            assert why == "refused"
            lost += lines
            metrics.count("gateway_metrics_dropped_total", lines, why=why)
        assert time.process_time() - begun < 0.25
    assert lost >= 30 * (len(TABLE) - 1)
    listener.come_back()
    metrics.count("gateway_tokens_out_total", 5, model="m", arm="none")
    assert tell(sender, metrics, "") == {}
    told = listener.hear()
    assert told.count("gw.metrics_dropped", why="refused") == lost
    assert told.count("gw.tokens_out", model="m") == 5


async def test_a_name_that_is_not_known_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(host: str, port: int) -> list[metrics_statsd.Address]:
        time.sleep(2)
        raise OSError("no such name")

    monkeypatch.setattr(telemetry, "resolve", hangs)
    metrics = Metrics(keep_values=True)
    late_s = 0.0
    async with telemetry.running(metrics, telemetry.Target("nowhere.invalid", 8125, "gw", 0.05, "")):
        for _ in range(10):
            begun = asyncio.get_running_loop().time()
            metrics.count("gateway_tokens_out_total", 5, model="m", arm="none")
            await asyncio.sleep(0.02)
            late_s = max(late_s, asyncio.get_running_loop().time() - begun)
        async with asyncio.timeout(10):
            while not metrics.value("gateway_metrics_dropped_total", {"why": "no_address"}):
                await asyncio.sleep(0.02)
    assert late_s < 1.5


async def test_the_last_figures_are_sent_at_the_end(listener: StatsdListener) -> None:
    metrics = Metrics(keep_values=True)
    async with telemetry.running(metrics, telemetry.Target("127.0.0.1", listener.port, "gw", 0.05, "")):
        async with asyncio.timeout(10):
            while not listener.hear().gauges and not listener.datagrams:
                metrics.gauge("gateway_in_flight", 1, model="m")
                await asyncio.sleep(0.02)
        metrics.count("gateway_tokens_out_total", 5, model="m", arm="none")
    assert listener.hear().count("gw.tokens_out", model="m") == 5


async def test_a_listener_that_moves_is_found_again(
    listener: StatsdListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that was made anew has another address behind the same name."""
    addresses = [("127.0.0.1", free_port())]
    monkeypatch.setattr(telemetry, "resolve", lambda *_: [(socket.AF_INET, addresses[-1])])
    monkeypatch.setattr(telemetry, "LOOK_UP_AGAIN_S", 0.05)
    metrics = Metrics(keep_values=True)
    async with telemetry.running(metrics, telemetry.Target("statsd", 8125, "gw", 0.05, "")):
        addresses.append(("127.0.0.1", listener.port))
        async with asyncio.timeout(10):
            while not listener.hear().count("gw.tokens_out"):
                metrics.count("gateway_tokens_out_total", 5, model="m", arm="none")
                await asyncio.sleep(0.02)
