"""What is stored is what clients counted: counts exactly, times within what a flush can tell."""

from __future__ import annotations

import pytest
from panels import points
from stage import Stage

pytestmark = pytest.mark.pipeline
GENERATE = "\"route\" = 'generate'"
EDGE_MS = 150
"""Between the client's clock and the gateway's: connection, sockets, and two cores for everything."""


@pytest.mark.parametrize("status", ["2xx", "4xx", "5xx"])
def test_requests_by_status_are_those_that_clients_counted(stage: Stage, status: str) -> None:
    assert stage.tally.statuses[status] > 0
    stored = stage.influx.total("gw_requests", f"{GENERATE} AND \"status\" = '{status}'")
    assert stored == stage.tally.statuses[status]


def test_answers_of_each_model_are_those_that_clients_counted(stage: Stage) -> None:
    for model, answered in stage.tally.answered.items():
        where = f"{GENERATE} AND \"model\" = '{model}' AND \"status\" = '2xx'"
        assert stage.influx.total("gw_requests", where) == answered, model


def test_requests_that_clients_left_are_counted_as_cancelled(stage: Stage) -> None:
    assert stage.tally.left > 0
    assert stage.influx.total("gw_requests", "\"status\" = 'left'") == stage.tally.left
    assert stage.influx.total("gw_cancelled") == stage.tally.left


def test_tokens_are_those_that_clients_counted(stage: Stage) -> None:
    """Exactly where nobody left in the middle of an answer; elsewhere some more, which nobody saw."""
    tally, total = stage.tally, stage.influx.total
    assert total("gw_tokens_out", "\"model\" = 'narrow'") == tally.tokens_out["narrow"]
    assert total("gw_tokens_in", "\"model\" = 'narrow'") == tally.tokens_in["narrow"]
    whole = sum(tally.tokens_out.values())
    assert whole <= total("gw_tokens_out") <= whole + 60 * tally.left


def test_refusals_and_errors_of_engines_are_counted_by_their_kind(stage: Stage) -> None:
    assert stage.influx.total("gw_rejected", "\"model\" = 'narrow'") == 8
    assert stage.influx.total("gw_upstream_errors", "\"model\" = 'fragile'") == 4
    assert stage.influx.total("gw_engine_restarts", "\"model\" = 'fragile'") > 0


def test_every_turn_of_the_device_is_a_switch_and_costs_time(stage: Stage) -> None:
    switches = stage.influx.total("gw_switches", '"model" =~ /qwen2|llama3/')
    assert switches >= 3
    lost_s = stage.influx.total("gw_switch_lost_seconds", '"model" =~ /qwen2|llama3/')
    assert lost_s >= 0.8 * 3, "each start of an engine takes 0.8 s at least"


def test_mean_and_extremes_of_times_are_those_that_clients_measured(stage: Stage) -> None:
    for model in ("narrow", "arm-a"):
        measured = stage.tally.durations_ms[model]
        where = f"\"model\" = '{model}' AND \"route\" = 'generate'"
        stored = {
            how: stage.influx.total("gw_total", where, f'{how}("{field}")')
            for how, field in (("max", "upper"), ("min", "lower"))
        }
        assert 0 <= max(measured) - stored["max"] <= EDGE_MS * 4 or stored["max"] > max(measured), model
        assert stored["min"] <= min(measured) <= stored["min"] + EDGE_MS, model


def test_the_true_median_lies_between_the_medians_of_the_flushes(stage: Stage) -> None:
    measured = sorted(stage.tally.durations_ms["arm-a"])
    median_ms = measured[len(measured) // 2]
    flushes = [
        value
        for series in stage.influx.ask(
            'SELECT "50_percentile" FROM "raw"."gw_total" '
            "WHERE \"model\" = 'arm-a' AND \"route\" = 'generate'"
        )
        for _, value in points(series)
        if value is not None
    ]
    assert len(flushes) > 10
    assert min(flushes) <= median_ms <= max(flushes) + EDGE_MS


def test_nothing_was_lost_on_the_way(stage: Stage) -> None:
    assert stage.influx.total("gw_metrics_dropped") == 0
    lost = stage.influx.total("internal_write", value='max("metrics_dropped")')
    dropped = stage.influx.total("internal_statsd", value='max("udp_packets_dropped")')
    assert (lost, dropped) == (0, 0)


def test_the_cards_of_the_sidecar_are_stored_with_their_figures(stage: Stage) -> None:
    def newest(measurement: str, gpu: int) -> float:
        return stage.influx.total(measurement, f"\"gpu\" = '{gpu}'", 'last("value")')

    assert newest("gw_gpu_utilisation_percent", 0) == 37
    assert newest("gw_gpu_temperature_celsius", 1) == 71
    assert newest("gw_gpu_power_watts", 0) == 112.5
    assert newest("gw_gpu_memory_used_bytes", 1) == 20000 * 2**20
    power_of_the_second = stage.influx.total("gw_gpu_power_watts", "\"gpu\" = '1'", 'count("value")')
    assert power_of_the_second == 0, "it does not tell, so there is no series"


def test_a_card_that_vanishes_and_comes_back_is_down_in_between(stage: Stage) -> None:
    (series,) = stage.influx.ask('SELECT "value" FROM "raw"."gw_gpu_up" WHERE "gpu" = \'1\'')
    seen = [value for _, value in points(series)]
    assert seen[0] == 1
    assert seen[-1] == 1
    assert 0 in seen


def test_the_energy_of_a_card_is_stored_to_the_joule(stage: Stage) -> None:
    joules = stage.influx.total("gw_gpu_energy_joules", "\"gpu\" = '0'")
    assert joules == 3 * 2000, "the stub's meter went on by 2,000 J at each of three turns"


def test_each_arm_of_a_split_has_the_requests_that_it_answered(stage: Stage) -> None:
    for arm in ("arm-a", "arm-b"):
        where = f"\"arm\" = '{arm}' AND \"status\" = '2xx'"
        assert stage.influx.total("gw_requests", where) > 0, arm
    split = stage.influx.total("gw_requests", '"arm" =~ /^arm-/ AND "status" = \'2xx\'')
    assert split == stage.tally.asked["ab"]


def test_what_a_busy_engine_refuses_is_tried_elsewhere_and_counted(stage: Stage) -> None:
    assert stage.influx.total("gw_retries", "\"model\" = 'pair'") > 0
    assert stage.influx.total("gw_fallbacks", "\"model\" = 'gone' AND \"to\" = 'arm-a'") == 4
