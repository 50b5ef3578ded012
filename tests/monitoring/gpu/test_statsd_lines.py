"""Lines, datagrams, and who does not take them."""

from __future__ import annotations

import logging
import socket

import pytest

from gpu_sidecar.exposition import page
from gpu_sidecar.series import TABLE, Sample, number, tag_value
from gpu_sidecar.statsd import Lines, Sender, datagrams


def energy(total_j: float, gpu: str = "0") -> Sample:
    return Sample("gpu_energy_joules", total_j, {"gpu": gpu, "uuid": "u", "host": "h", "source": "counter"})


def test_tags_stand_in_the_tables_order() -> None:
    sample = Sample("gpu_clock_mhz", 1500, {"clock": "sm", "host": "h", "uuid": "GPU-1", "gpu": "0"})
    assert Lines().of([sample]) == ["gw.gpu_clock_mhz,gpu=0,uuid=GPU-1,host=h,clock=sm:1500|g"]


def test_counters_are_whole_increments_that_lose_nothing() -> None:
    lines = Lines()
    said = [lines.of([energy(total)])[0] for total in (0.0, 0.9, 1.8, 2.7, 10.0)]
    assert [line.rpartition(":")[2] for line in said] == ["0|c", "0|c", "1|c", "1|c", "8|c"]


def test_counter_whose_card_got_another_number_does_not_count_twice() -> None:
    lines = Lines()
    lines.of([energy(0), energy(500)])
    assert lines.of([energy(501, gpu="1")])[0].endswith(":0|c")


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.0, "0"), (112.5, "112.5"), (12878610432, "12878610432"), (1e-9, "0")]
)
def test_numbers_have_no_exponent(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("python3.11", "python3.11"),
        ("a b,c=d|e:f\n", "a_b_c_d_e_f_"),
        ("", "unknown"),
        ("模型", "__"),
        ("x" * 99, "x" * 64),
    ],
)
def test_tag_values_have_nothing_to_escape(text: str, value: str) -> None:
    assert tag_value(text) == value


def test_datagrams_keep_lines_whole_and_in_order() -> None:
    lines = [f"gw.line{index}:{'1' * (index % 50)}|g" for index in range(300)]
    sent = list(datagrams(lines))
    assert b"\n".join(sent).decode().split("\n") == lines
    assert max(len(datagram) for datagram in sent) <= 1432
    assert len(sent) < 10
    assert list(datagrams([])) == []


def test_longest_line_that_there_can_be_fits_a_datagram() -> None:
    for metric in TABLE:
        sample = Sample(metric.name, 1e18, dict.fromkeys(metric.tags, "x" * 64))
        assert len(Lines().of([sample])[0]) < 1432


def test_prometheus_page_names_counters_as_totals() -> None:
    assert page([energy(1.5)]).splitlines()[1:] == [
        "# TYPE gateway_gpu_energy_joules_total counter",
        'gateway_gpu_energy_joules_total{gpu="0",uuid="u",host="h",source="counter"} 1.5',
    ]


def test_refusal_is_told_once_and_its_end_when_it_is_sure(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gpu_sidecar")
    now = 0.0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    sender = Sender("127.0.0.1", port, clock=lambda: now)
    for _ in range(200):
        now += 1
        sender.send(["gw.x:1|g"])
    assert [record.getMessage() for record in caplog.records] == [
        f"StatsD at 127.0.0.1:{port} cannot be reached: nobody listens there"
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", port))
        for _ in range(20):
            now += 1
            sender.send(["gw.x:1|g"])
        assert listener.recv(100) == b"gw.x:1|g"
    assert caplog.records[-1].getMessage() == f"StatsD at 127.0.0.1:{port} is reached again"
    assert len(caplog.records) == 2
    sender.close()
