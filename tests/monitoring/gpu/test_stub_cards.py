"""What is sent of cards: the sidecar as a process, with nvidia-ml-py and a stub of the driver's library."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from harness import free_port, until

from gpu_sidecar.series import CARD_TAGS

MIB = 2**20

FIRST = """gpu 12282 700
set 0 utilisation 37
set 0 temperature 54
set 0 power 112500
set 0 energy 5000000
set 0 sm 2520
set 0 mem 10501
set 0 reasons 36
set 0 fan 41
set 0 sent 1500
set 0 received 250000
process 0 100 4096 /opt/engine/bin/text-generation-server --model x
process 0 101 2048 /opt/engine/bin/text-generation-server --model y
process 0 102 512 /usr/bin/python3.11
process 0 103 256
process 0 104 -1 /usr/bin/secretive
draws 0 102 512
draws 0 105 64
"""
SECOND = """gpu 24564 20000
set 1 utilisation 90
set 1 temperature 71
set 1 sm 1400
"""
BOTH = FIRST.replace("gpu 12282 700\n", "gpu 12282 700\ngpu 24564 20000\n") + SECOND.partition("\n")[2]


def test_stub_two_cards_have_right_values_in_the_units_of_their_names(
    stub: Any, receiver: Any, start_sidecar: Any
) -> None:
    stub.shows(BOTH)
    start_sidecar(stub, receiver.port)
    receiver.rounds(2)
    card = {"gpu": "0", "uuid": "GPU-stub-0", "host": "rack1"}
    expected = {
        "gpu_up": 1,
        "gpu_utilisation_percent": 37,
        "gpu_memory_used_bytes": 700 * MIB,
        "gpu_memory_free_bytes": (12282 - 700) * MIB,
        "gpu_memory_total_bytes": 12282 * MIB,
        "gpu_temperature_celsius": 54,
        "gpu_power_watts": 112.5,
        "gpu_fan_percent": 41,
    }
    assert {name: receiver.latest(name, **card) for name in expected} == expected
    assert receiver.latest("gpu_clock_mhz", **card, clock="sm") == 2520
    assert receiver.latest("gpu_clock_mhz", **card, clock="mem") == 10501
    assert receiver.latest("gpu_pcie_bytes_per_second", **card, direction="from_gpu") == 1_500_000
    assert receiver.latest("gpu_pcie_bytes_per_second", **card, direction="to_gpu") == 250_000_000
    reasons = {line.tags["reason"]: line.value for line in receiver.about("gpu_throttle", **card)}
    assert sorted(reason for reason, on in reasons.items() if on) == ["sw_power_cap", "sw_thermal_slowdown"]
    assert len(reasons) == 9
    assert all(tuple(line.tags)[:3] == CARD_TAGS for line in receiver.about("gpu_up"))


def test_stub_card_without_power_readings_lacks_those_series_and_no_other(
    stub: Any, receiver: Any, start_sidecar: Any
) -> None:
    stub.shows(BOTH)
    sidecar = start_sidecar(stub, receiver.port)
    receiver.rounds(2)
    names = {line.name for line in receiver.lines if line.tags["uuid"] == "GPU-stub-1"}
    assert names == {
        "gpu_up",
        "gpu_utilisation_percent",
        "gpu_memory_used_bytes",
        "gpu_memory_free_bytes",
        "gpu_memory_total_bytes",
        "gpu_temperature_celsius",
        "gpu_clock_mhz",
    }
    assert receiver.latest("gpu_utilisation_percent", gpu="1") == 90
    untold = "power, memory clock, throttle reasons, fan, PCIe throughput, energy"
    assert f"INFO    card 1 (GPU-stub-1) does not tell: {untold}" in sidecar.said
    assert sidecar.output.count("does not tell") == 1


def test_stub_processes_go_by_name_once_each_and_the_smaller_ones_together(
    stub: Any, receiver: Any, start_sidecar: Any
) -> None:
    stub.shows(FIRST)
    start_sidecar(stub, receiver.port, SIDECAR_PROCESSES=2)
    receiver.rounds(2)
    sizes = {line.tags["process"]: line.value for line in receiver.about("gpu_process_memory_bytes")}
    assert sizes == {
        "text-generation-server": 6144 * MIB,
        "python3.11": 512 * MIB,
        "other": (256 + 64) * MIB,  # the one without a name and the one that only draws
    }


def test_stub_driver_that_has_throttle_reasons_under_their_old_name_tells_them(
    stub: Any, receiver: Any, start_sidecar: Any
) -> None:
    stub.shows(f"{FIRST}fail nvmlDeviceGetCurrentClocksEventReasons 13\n")
    start_sidecar(stub, receiver.port)
    receiver.rounds(1)
    assert receiver.latest("gpu_throttle", reason="sw_power_cap") == 1
    assert receiver.latest("gpu_throttle", reason="hw_slowdown") == 0


def test_stub_unknown_error_of_one_figure_leaves_out_that_figure_alone(
    stub: Any, receiver: Any, start_sidecar: Any
) -> None:
    stub.shows(f"{FIRST}fail nvmlDeviceGetFanSpeed 999\nfail nvmlDeviceGetGraphicsRunningProcesses 4\n")
    start_sidecar(stub, receiver.port)
    receiver.rounds(2)
    assert not receiver.about("gpu_fan_percent")
    assert receiver.latest("gpu_power_watts") == 112.5
    assert receiver.latest("gpu_process_memory_bytes", process="text-generation-server") == 6144 * MIB


def test_stub_eight_cards_fill_datagrams_that_nobody_splits(
    stub: Any, receiver: Any, start_sidecar: Any
) -> None:
    lines = FIRST.splitlines()[1:]
    cards = [line.replace(" 0 ", f" {card} ", 1) for card in range(8) for line in lines]
    stub.shows("\n".join(["gpu 12282 700"] * 8 + cards) + "\n")
    start_sidecar(stub, receiver.port)
    receiver.rounds(2)
    until(lambda: receiver.about("gpu_energy_joules", gpu="7"), "the last card's energy")
    sizes = [len(datagram) for datagram in receiver.datagrams]
    assert max(sizes) <= 1432
    assert max(sizes) > 1300  # and they are filled


def test_stub_energy_is_the_counters_increase_in_joules(stub: Any, receiver: Any, start_sidecar: Any) -> None:
    def energy() -> float:
        return sum(line.value for line in receiver.about("gpu_energy_joules", source="counter"))

    stub.shows("gpu 12282 700\nset 0 energy 5000000\n")
    start_sidecar(stub, receiver.port)
    until(lambda: receiver.about("gpu_energy_joules"), "the first energy")
    stub.shows("gpu 12282 700\nset 0 energy 5000700\n")
    stub.shows("gpu 12282 700\nset 0 energy 5250900\n")
    until(lambda: energy() >= 250, "the energy")
    stub.shows("gpu 12282 700\nset 0 energy 5251000\n")  # the tenth that was missing to the next joule
    until(lambda: energy() >= 251, "the rest of it")
    assert energy() == 251
    assert all(line.kind == "c" for line in receiver.about("gpu_energy_joules"))


def test_stub_energy_counter_that_begins_anew_with_its_driver_is_added_from_its_new_zero(
    stub: Any, receiver: Any, start_sidecar: Any
) -> None:
    stub.shows("epoch 1\ngpu 12282 700\nset 0 energy 9000000000\n")
    start_sidecar(stub, receiver.port)
    until(lambda: receiver.about("gpu_energy_joules"), "the first energy")
    stub.shows("epoch 2\ngpu 12282 700\nset 0 energy 42000\n")
    until(lambda: sum(line.value for line in receiver.about("gpu_energy_joules")), "energy after it")
    assert sum(line.value for line in receiver.about("gpu_energy_joules")) == 42


def test_stub_energy_without_a_counter_is_power_over_time_and_says_so(
    stub: Any, receiver: Any, start_sidecar: Any
) -> None:
    stub.shows("gpu 12282 700\nset 0 power 400000\n")
    sidecar = start_sidecar(stub, receiver.port)
    until(
        lambda: sum(line.value for line in receiver.about("gpu_energy_joules", source="power")) > 100,
        "energy",
    )
    assert "INFO    card 0 (GPU-stub-0): energy is added up from power" in sidecar.said


@pytest.mark.parametrize("path", ["/metrics", "/metrics?x=1"])
def test_stub_page_for_prometheus_has_the_same_figures(
    stub: Any, receiver: Any, start_sidecar: Any, path: str
) -> None:
    stub.shows(BOTH)
    port = free_port()
    start_sidecar(stub, receiver.port, SIDECAR_PROMETHEUS_PORT=port)
    receiver.rounds(2)
    text = httpx.get(f"http://127.0.0.1:{port}{path}").text
    card = 'gpu="0",uuid="GPU-stub-0",host="rack1"'
    assert f"# TYPE gateway_gpu_power_watts gauge\ngateway_gpu_power_watts{{{card}}} 112.5\n" in text
    assert f'gateway_gpu_energy_joules_total{{{card},source="counter"}} 0\n' in text
    assert f'gateway_gpu_memory_used_bytes{{gpu="1",uuid="GPU-stub-1",host="rack1"}} {20000 * MIB}\n' in text
    assert httpx.get(f"http://127.0.0.1:{port}/elsewhere").status_code == 404
