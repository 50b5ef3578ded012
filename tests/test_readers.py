"""Readers of device memory. NVML ones run the real nvidia-ml-py against a stub of the driver's library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway import readers
from gateway.config import DeviceSpec
from gateway.readers import NvmlReader, ProcessReader, available_bytes, reader_for

HERE = Path(__file__).parent
MIB = 2**20
GIB = 2**30


class Probe:
    """A process that reads cards, and the state of the stub that it sees."""

    def __init__(self, library_folder: Path | None, state: Path, timeout_s: float) -> None:
        pytest.importorskip("pynvml", reason="needs nvidia-ml-py (extra gpu)")
        self._state = state
        self.cards("")
        environment = {**os.environ, "NVML_STUB_STATE": str(state), "PYTHONPATH": str(HERE.parent)}
        environment.pop("LD_LIBRARY_PATH", None)
        if library_folder is not None:
            environment["LD_LIBRARY_PATH"] = str(library_folder)
        self._process = subprocess.Popen(
            [sys.executable, HERE / "nvml_stub" / "probe.py", str(timeout_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def cards(self, text: str) -> None:
        fresh = self._state.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self._state)

    def ask(self, request: str) -> tuple[Any, list[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["answer"], answer["log"]

    def close(self) -> None:
        self._process.communicate(timeout=20)
        assert self._process.returncode == 0


StartProbe = Callable[..., Probe]


@pytest.fixture
def start_probe(tmp_path: Path) -> Iterator[StartProbe]:
    started: list[Probe] = []

    def start(library: Path | None, timeout_s: float = 30.0) -> Probe:
        folder = None if library is None else library.parent
        started.append(Probe(folder, tmp_path / "state", timeout_s))
        return started[-1]

    yield start
    for probe in started:
        probe.close()


TWO_CARDS = "gpu 12282 700\ngpu 24564 20000\n"
NO_DRIVER = "there is no NVIDIA driver here (libnvidia-ml.so.1 is missing)"


def test_stub_two_cards_are_read_each_by_its_index(stub_library: Path, start_probe: StartProbe) -> None:
    probe = start_probe(stub_library)
    probe.cards(TWO_CARDS)
    assert probe.ask("read 0") == ([12282, 700], [])
    assert probe.ask("read 1") == ([24564, 20000], [])
    probe.cards("gpu 12282 11000\ngpu 24564 20000\n")
    assert probe.ask("read 0") == ([12282, 11000], [])


def test_stub_lost_card_is_told_once_retried_later_each_time_and_told_when_back(
    stub_library: Path, start_probe: StartProbe
) -> None:
    probe = start_probe(stub_library)
    probe.cards(TWO_CARDS)
    assert probe.ask("read 1") == ([24564, 20000], [])
    probe.cards(TWO_CARDS + "fail nvmlDeviceGetMemoryInfo 15 1\n")
    assert probe.ask("read 1") == (
        None,
        ["WARNING memory of card 1 cannot be measured: the card has dropped off the bus"],
    )
    assert probe.ask("read 0") == ([12282, 700], [])  # its neighbour is not taken down
    probe.ask("skip 1.1")
    assert probe.ask("read 1") == (None, [])
    probe.cards(TWO_CARDS)
    probe.ask("skip 1.1")
    assert probe.ask("read 1") == (None, [])  # the pause has doubled to 2 s
    probe.ask("skip 1")
    assert probe.ask("read 1") == ([24564, 20000], ["INFO memory of card 1 can be measured again"])
    probe.cards(TWO_CARDS + "fail nvmlDeviceGetMemoryInfo 15 1\n")
    assert probe.ask("read 1")[0] is None
    probe.cards(TWO_CARDS)
    probe.ask("skip 1.1")
    assert probe.ask("read 1")[0] == [24564, 20000]  # the pause is short again


def test_stub_pause_between_tries_does_not_grow_beyond_a_minute(
    stub_library: Path, start_probe: StartProbe
) -> None:
    probe = start_probe(stub_library)
    for _ in range(9):
        assert probe.ask("read 0")[0] is None
        probe.ask("skip 600")
    assert probe.ask("read 0")[0] is None
    probe.cards(TWO_CARDS)
    probe.ask("skip 61")
    assert probe.ask("read 0")[0] == [12282, 700]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("fail nvmlDeviceGetMemoryInfo 3", "this card does not tell its memory"),
        ("fail nvmlDeviceGetMemoryInfo 1", "the library was closed under us"),
        (
            "fail nvmlDeviceGetMemoryInfo 999",
            "the driver cannot say what is wrong (a container may have lost the card)",
        ),
        ("fail nvmlDeviceGetHandleByIndex 4", "the driver does not allow it"),
        ("fail nvmlInitWithFlags 9", "the NVIDIA driver is not loaded"),
    ],
)
def test_stub_fault_gives_no_reading_its_reason_once_and_ends(
    stub_library: Path, start_probe: StartProbe, fault: str, reason: str
) -> None:
    probe = start_probe(stub_library)
    probe.cards(f"{TWO_CARDS}{fault}\n")
    assert probe.ask("read 0") == (None, [f"WARNING memory of card 0 cannot be measured: {reason}"])
    probe.ask("skip 70")
    assert probe.ask("read 0") == (None, [])
    probe.cards(TWO_CARDS)
    probe.ask("skip 70")
    assert probe.ask("read 0") == ([12282, 700], ["INFO memory of card 0 can be measured again"])


def test_stub_library_lost_by_a_container_comes_back_once_all_readers_have_let_go_of_it(
    stub_library: Path, start_probe: StartProbe
) -> None:
    probe = start_probe(stub_library)
    probe.cards(f"epoch 1\n{TWO_CARDS}")
    assert probe.ask("read 0")[0] == [12282, 700]
    assert probe.ask("read 1")[0] == [24564, 20000]
    probe.cards(f"epoch 2\n{TWO_CARDS}")  # from now on only a library opened anew answers
    assert probe.ask("read 0")[0] is None
    probe.ask("skip 1.1")
    assert probe.ask("read 0")[0] is None  # the other reader still holds the old one
    assert probe.ask("read 1")[0] is None
    probe.ask("skip 2.1")
    assert probe.ask("read 0")[0] == [12282, 700]
    assert probe.ask("read 1")[0] == [24564, 20000]


def test_stub_card_that_is_not_there_is_told(stub_library: Path, start_probe: StartProbe) -> None:
    probe = start_probe(stub_library)
    probe.cards(TWO_CARDS)
    reading, said = probe.ask("read 2")
    assert reading is None
    assert said == ["WARNING memory of card 2 cannot be measured: there is no card of this number"]


def test_stub_hanging_driver_costs_the_time_out_and_is_asked_once(
    stub_library: Path, start_probe: StartProbe, tmp_path: Path
) -> None:
    probe = start_probe(stub_library, timeout_s=0.3)
    release = tmp_path / "release"
    probe.cards(f"{TWO_CARDS}hang nvmlDeviceGetMemoryInfo {release}\n")
    try:
        readings, said = probe.ask("burst 0 3")
        assert readings == [None, None, None]
        assert said == ["WARNING memory of card 0 cannot be measured: the driver does not answer"]
        assert probe.ask("threads")[0] <= 3  # the main one, the one that hangs, the probe's input
    finally:
        release.touch()
    readings, said = probe.ask("burst 0 3")
    assert readings == [[12282, 700]] * 3
    assert said == ["INFO memory of card 0 can be measured again"]


@pytest.mark.skipif(
    any(Path(folder, "libnvidia-ml.so.1").exists() for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64")),
    reason="there is a real driver here",
)
def test_no_driver_library_gives_no_reading_and_one_line(start_probe: StartProbe) -> None:
    probe = start_probe(None)
    assert probe.ask("read 0") == (
        None,
        [f"WARNING memory of card 0 cannot be measured: {NO_DRIVER}"],
    )
    probe.ask("skip 70")
    assert probe.ask("read 0") == (None, [])


async def test_missing_nvidia_ml_py_gives_no_reading_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert await NvmlReader(0).read() is None
    assert "pip install 'unified-llm-gateway[gpu]'" in caplog.text


def sizes_of(figures: Mapping[str, int]) -> readers.Sizes:
    async def sizes() -> Mapping[str, int]:
        return figures

    return sizes


@pytest.mark.parametrize(
    ("figures", "available", "used", "free"),
    [
        ({}, 64 * GIB, 0, 4 * GIB),
        ({"a": GIB, "b": 2 * GIB}, 64 * GIB, 3 * GIB, GIB),
        ({"a": 5 * GIB}, 64 * GIB, 5 * GIB, 0),
        ({"a": GIB}, GIB, 3 * GIB, GIB),
        ({"a": GIB}, 0, 4 * GIB, 0),
        ({"a": GIB}, None, GIB, 3 * GIB),
    ],
    ids=["empty", "two engines", "over budget", "machine short", "machine full", "machine silent"],
)
async def test_process_reader_gives_the_engines_and_respects_what_the_machine_has_left(
    figures: dict[str, int], available: int | None, used: int, free: int
) -> None:
    reading = await ProcessReader(4 * GIB, sizes_of(figures), lambda: available).read()
    assert reading is not None
    assert (reading.total_bytes, reading.used_bytes, reading.free_bytes) == (4 * GIB, used, free)
    assert reading.by_model == figures


def test_available_memory_without_psutil_is_the_kernels_figure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:    2048 kB\n")
    assert available_bytes(meminfo) == 2 * MIB
    assert available_bytes(tmp_path / "absent") is None


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs /proc")
def test_available_memory_is_about_the_same_with_and_without_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psutil")
    with_psutil = available_bytes()
    monkeypatch.setitem(sys.modules, "psutil", None)
    without = available_bytes()
    assert with_psutil is not None
    assert without is not None
    assert abs(with_psutil - without) < max(256 * MIB, with_psutil // 10)


@pytest.mark.parametrize(
    ("reader", "kind"), [("nvml", NvmlReader), ("process", ProcessReader), ("none", type(None))]
)
def test_each_device_gets_the_reader_it_names(reader: str, kind: type) -> None:
    device = DeviceSpec.model_validate({"id": "gpu0", "memory": "12GiB", "reader": reader, "index": 1})
    assert type(reader_for(device, sizes_of({}))) is kind
