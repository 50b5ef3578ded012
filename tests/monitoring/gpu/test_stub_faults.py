"""What the sidecar survives: the real nvidia-ml-py against a stub of the driver's library that fails."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import free_port, until

from gpu_sidecar.driver import Driver

TWO = (
    "gpu 12282 700\ngpu 24564 20000\nset 0 power 100000\nset 1 power 200000\nset 0 energy 1\nset 1 energy 1\n"
)
NO_DRIVER = "WARNING NVML cannot be read: there is no NVIDIA driver here (libnvidia-ml.so.1 is missing)"
UNKNOWN = "the driver cannot say what is wrong (a container may have lost the card)"
BACK = "INFO    NVML can be read again"
LOST = "WARNING card 1 (GPU-stub-1) cannot be read: "


def test_stub_card_that_vanishes_is_down_its_neighbour_goes_on_and_it_returns(
    stub: Any, receiver: Any, start_sidecar: Any
) -> None:
    stub.shows(TWO)
    sidecar = start_sidecar(stub, receiver.port)
    receiver.until(1, "gpu_up", uuid="GPU-stub-1")
    stub.shows(f"{TWO}lost 1\n")
    receiver.until(0, "gpu_up", uuid="GPU-stub-1")
    receiver.rounds(10)  # the library is closed and opened meanwhile
    assert {line.value for line in receiver.about("gpu_up", gpu="0", uuid="GPU-stub-0")} == {1}
    assert {line.value for line in receiver.about("gpu_up", gpu="1", uuid="GPU-stub-1")} == {0}
    assert {line.tags["uuid"] for line in receiver.about("gpu_power_watts")} == {"GPU-stub-0"}
    stub.shows(TWO)
    receiver.until(1, "gpu_up", uuid="GPU-stub-1")
    receiver.rounds(1)
    assert receiver.latest("gpu_power_watts", gpu="1") == 200
    assert sidecar.faults == [
        f"{LOST}it has dropped off the bus",
        "INFO    card 1 (GPU-stub-1) can be read again",
    ]


def test_stub_card_that_is_no_longer_listed_is_down(stub: Any, receiver: Any, start_sidecar: Any) -> None:
    stub.shows(TWO)
    sidecar = start_sidecar(stub, receiver.port)
    receiver.until(1, "gpu_up", gpu="1")
    stub.shows("gpu 12282 700\nset 0 power 100000\nset 0 energy 1\n")
    receiver.until(0, "gpu_up", gpu="1")
    assert f"{LOST}the driver does not list it" in sidecar.said
    assert receiver.latest("gpu_up", gpu="0") == 1


def test_stub_library_that_appears_later_is_found(
    no_library: Any, stub_library: Path, receiver: Any, start_sidecar: Any
) -> None:
    no_library.shows(TWO)
    sidecar = start_sidecar(no_library, receiver.port)
    receiver.until(0, "gpu_up", gpu="none", uuid="none")
    receiver.rounds(10)
    assert sidecar.faults == [NO_DRIVER]
    shutil.copy(stub_library, no_library.folder / stub_library.name)
    receiver.until(1, "gpu_up", gpu="1")
    receiver.rounds(2)
    assert not receiver.about("gpu_up", gpu="none")
    assert sidecar.faults == [NO_DRIVER, BACK]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("fail nvmlInitWithFlags 9", "the NVIDIA driver is not loaded"),
        ("fail nvmlInitWithFlags 18", "the driver and its library are of different versions"),
        (
            "fail nvmlDeviceGetCount 999",
            UNKNOWN,
        ),
    ],
)
def test_stub_driver_that_is_not_there_at_the_start_is_waited_for(
    stub: Any, receiver: Any, start_sidecar: Any, fault: str, reason: str
) -> None:
    stub.shows(f"{TWO}{fault}\n")
    sidecar = start_sidecar(stub, receiver.port)
    receiver.until(0, "gpu_up", gpu="none")
    receiver.rounds(2)
    stub.shows(TWO)
    receiver.until(1, "gpu_up", gpu="1")
    assert sidecar.faults == [f"WARNING NVML cannot be read: {reason}", BACK]


def test_pause_between_tries_doubles_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    tries: list[float] = []
    now = 0.0

    def absent() -> None:
        tries.append(now)
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    driver = Driver(8, 60, clock=lambda: now)
    for _ in range(500):
        assert driver.read().cards == ()
        now += 0.5
    assert tries == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]


def test_stub_driver_that_is_loaded_anew_is_read_again_without_a_restart(
    stub: Any, receiver: Any, start_sidecar: Any
) -> None:
    stub.shows(f"epoch 1\n{TWO}")
    sidecar = start_sidecar(stub, receiver.port)
    receiver.until(1, "gpu_up", gpu="1")
    stub.shows(f"epoch 2\n{TWO}fail nvmlInitWithFlags 9\n")
    receiver.until(0, "gpu_up", gpu="0")
    until(lambda: "not loaded" in sidecar.output, "the first try to open the library again")
    stub.shows(f"epoch 2\n{TWO}")
    receiver.until(1, "gpu_up", gpu="0")
    receiver.until(1, "gpu_up", gpu="1")
    # It may have been loaded anew between two cards of one round: then the second has its own lines.
    assert [line for line in sidecar.faults if " card " not in line.partition(":")[0]] == [
        f"WARNING NVML cannot be read: {UNKNOWN}",
        "WARNING NVML cannot be read: the NVIDIA driver is not loaded",
        BACK,
    ]


def test_stub_card_that_was_never_read_is_told_and_its_neighbour_is_read(
    stub: Any, receiver: Any, start_sidecar: Any
) -> None:
    stub.shows(f"{TWO}fail nvmlDeviceGetHandleByIndex 4 1\n")
    sidecar = start_sidecar(stub, receiver.port)
    receiver.until(1, "gpu_up", gpu="0")
    receiver.rounds(2)
    assert not receiver.about("gpu_up", gpu="1")
    stub.shows(TWO)
    receiver.until(1, "gpu_up", gpu="1")
    assert sidecar.faults == [
        "WARNING card 1 (number 1) cannot be read: the driver does not allow it",
        "INFO    card 1 (number 1) can be read again",
    ]


def test_stub_driver_exchanged_under_a_loaded_library_ends_the_process_so_that_it_is_started_again(
    stub: Any, receiver: Any, start_sidecar: Any
) -> None:
    stub.shows(TWO)
    sidecar = start_sidecar(stub, receiver.port)
    receiver.until(1, "gpu_up", gpu="1")
    stub.shows(f"{TWO}fail nvmlDeviceGetMemoryInfo 18\n")
    assert sidecar.process.wait(20) == 75
    assert "start this program again" in sidecar.said[-1]


def test_stub_driver_that_hangs_is_told_and_a_stop_is_obeyed_meanwhile(
    stub: Any, receiver: Any, start_sidecar: Any, tmp_path: Path
) -> None:
    stub.shows(TWO)
    sidecar = start_sidecar(stub, receiver.port, SIDECAR_DRIVER_TIMEOUT_S=0.5)
    receiver.until(1, "gpu_up", gpu="1")
    stub.shows(f"{TWO}hang nvmlDeviceGetMemoryInfo {tmp_path / 'release'}\n")
    receiver.until(0, "gpu_up", gpu="1")
    (tmp_path / "release").touch()
    receiver.until(1, "gpu_up", gpu="1")
    assert sidecar.faults == [
        "WARNING the driver does not answer: nothing within 0.5 s",
        "INFO    the driver answers again",
    ]
    (tmp_path / "release").unlink()
    receiver.until(0, "gpu_up", gpu="1")
    assert sidecar.stop() == 0


def test_stub_stop_is_obeyed_while_the_driver_hangs_and_is_waited_for(
    stub: Any, receiver: Any, start_sidecar: Any, tmp_path: Path
) -> None:
    stub.shows(f"{TWO}hang nvmlInitWithFlags {tmp_path / 'never'}\n")
    sidecar = start_sidecar(stub, receiver.port, SIDECAR_DRIVER_TIMEOUT_S=600)
    until(lambda: "sending to" in sidecar.output, "the start")
    assert sidecar.stop() == 0
    assert sidecar.said[-1] == "INFO    stopped"


def test_stub_receiver_that_is_not_there_costs_nothing_and_gets_what_comes_after_it_is(
    stub: Any, listen: Any, start_sidecar: Any
) -> None:
    stub.shows(TWO)
    port, page = free_port(), free_port()
    sidecar = start_sidecar(stub, port, SIDECAR_PROMETHEUS_PORT=page)
    until(lambda: "nobody listens there" in sidecar.output, "the refusal")
    stub.shows(TWO.replace("100000", "300000"))
    until(
        lambda: "gateway_gpu_power_watts" in (text := httpc(page)) and "} 300\n" in text, "the page to go on"
    )
    receiver = listen(port)
    receiver.rounds(2)
    assert receiver.latest("gpu_power_watts", gpu="0") == 300
    assert sidecar.output.count("cannot be reached") == 1


def httpc(port: int) -> str:
    return httpx.get(f"http://127.0.0.1:{port}/metrics").text


def test_stub_receiver_whose_name_is_not_known_costs_nothing(
    stub: Any, receiver: Any, start_sidecar: Any
) -> None:
    stub.shows(TWO)
    sidecar = start_sidecar(stub, receiver.port, SIDECAR_STATSD_HOST="telegraf.invalid")
    until(lambda: "StatsD at telegraf.invalid" in sidecar.output, "the look-up to fail")
    assert sidecar.process.poll() is None


def test_stub_sigterm_ends_it_in_order(stub: Any, receiver: Any, start_sidecar: Any) -> None:
    stub.shows(TWO)
    sidecar = start_sidecar(stub, receiver.port, SIDECAR_INTERVAL_S=60)
    until(lambda: receiver.about("gpu_up"), "the first round")  # the next would be in a minute
    assert sidecar.stop() == 0
    assert sidecar.said[-1] == "INFO    stopped"


def test_stub_page_that_has_no_place_to_listen_is_told_before_anything_starts(
    stub: Any, receiver: Any, start_sidecar: Any
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        sidecar = start_sidecar(stub, receiver.port, SIDECAR_PROMETHEUS_PORT=port)
        assert sidecar.process.wait(20) == 1
    assert f"SIDECAR_PROMETHEUS_PORT: nothing can listen on 127.0.0.1:{port}: " in sidecar.output
