"""The sidecar as a process, the stub that it reads, and who listens to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from harness import REPOSITORY, STOP_S, until

PACKAGE = REPOSITORY / "monitoring" / "gpu"


@dataclass(frozen=True, slots=True)
class Line:
    """One StatsD line as Telegraf takes it apart."""

    name: str
    tags: dict[str, str]
    value: float
    kind: str

    def about(self, name: str, **tags: str) -> bool:
        return self.name == name and tags.items() <= self.tags.items()


def parse(line: str) -> Line:
    bucket, _, rest = line.rpartition(":")
    name, *tags = bucket.split(",")
    value, kind = rest.split("|")
    return Line(name.removeprefix("gw."), dict(tag.split("=") for tag in tags), float(value), kind)


@dataclass(slots=True)
class Receiver:
    """Listens for datagrams as Telegraf does."""

    socket: socket.socket
    datagrams: list[bytes] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def listen(self) -> None:
        while datagram := self.socket.recv(65536):
            self.datagrams.append(datagram)

    @property
    def lines(self) -> list[Line]:
        return [parse(line) for datagram in list(self.datagrams) for line in datagram.decode().split("\n")]

    def about(self, name: str, **tags: str) -> list[Line]:
        return [line for line in self.lines if line.about(name, **tags)]

    def latest(self, name: str, **tags: str) -> float:
        found = self.about(name, **tags)
        assert found, f"no line about {name} {tags}"
        return found[-1].value

    def forget(self) -> None:
        self.datagrams.clear()

    def rounds(self, number: int) -> None:
        """Wait until that many more rounds have come whole."""
        self.forget()
        until(lambda: sum(b"gw.gpu_up" in one for one in list(self.datagrams)) > number, f"{number} rounds")

    def until(self, value: float, name: str, **tags: str) -> None:
        def there() -> bool:
            found = self.about(name, **tags)
            return bool(found) and found[-1].value == value

        until(there, f"{name} {tags} to become {value}")

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))  # an empty datagram ends ``listen``


def receiver_on(port: int = 0) -> tuple[Receiver, threading.Thread]:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind(("127.0.0.1", port))
    receiver = Receiver(opened)
    thread = threading.Thread(target=receiver.listen)
    thread.start()
    return receiver, thread


Listen = Callable[..., Receiver]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Start receivers: ``listen(port=0)``."""
    started: list[tuple[Receiver, threading.Thread]] = []

    def start(port: int = 0) -> Receiver:
        started.append(receiver_on(port))
        return started[-1][0]

    yield start
    for receiver, thread in started:
        receiver.close()
        thread.join(STOP_S)
        receiver.socket.close()


@pytest.fixture
def receiver(listen: Listen) -> Receiver:
    return listen()


@dataclass(slots=True)
class Stub:
    """What the stub of the driver's library shows. Without a library there is none to be found."""

    state: Path
    folder: Path

    def shows(self, text: str) -> None:
        fresh = self.state.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.state)

    @property
    def environment(self) -> dict[str, str]:
        return {"NVML_STUB_STATE": str(self.state), "LD_LIBRARY_PATH": str(self.folder)}


@pytest.fixture
def no_library(tmp_path: Path) -> Stub:
    """An empty folder where the library is looked for."""
    pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    folder = tmp_path / "libraries"
    folder.mkdir()
    stub = Stub(tmp_path / "state", folder)
    stub.shows("")
    return stub


@pytest.fixture
def stub(no_library: Stub, stub_library: Path) -> Stub:
    """The stub in its place, with no card yet."""
    (no_library.folder / stub_library.name).symlink_to(stub_library)
    return no_library


@dataclass(slots=True)
class Process:
    """A sidecar that runs."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def said(self) -> list[str]:
        """Its log without times."""
        return [line.split(maxsplit=1)[1] for line in self.output.splitlines()]

    @property
    def faults(self) -> list[str]:
        """What it said of them, beginnings and ends."""
        return [line for line in self.said if "cannot be" in line or "again" in line or "answer" in line]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


StartSidecar = Callable[..., Process]


def environment_for(stub: Stub, **settings: object) -> dict[str, str]:
    named = {name: str(value) for name, value in settings.items()}
    own = {"SIDECAR_INTERVAL_S": "0.05", "SIDECAR_HOST": "rack1", "PYTHONPATH": str(PACKAGE)}
    return {**os.environ, **own, **stub.environment, **named}


@pytest.fixture
def environment_of() -> Callable[..., dict[str, str]]:
    """The environment of a sidecar that sees a stub: ``environment_of(stub, PRICE_PER_KWH=0.3)``."""
    return environment_for


@pytest.fixture
def start_sidecar(tmp_path: Path) -> Iterator[StartSidecar]:
    """Start sidecars: ``start_sidecar(stub, port, PRICE_PER_KWH=0.3)``."""
    started: list[Process] = []

    def start(stub: Stub, port: int, **settings: object) -> Process:
        log = tmp_path / f"sidecar-{len(started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "gpu_sidecar"],
                stderr=output,
                env=environment_for(stub, SIDECAR_STATSD_PORT=port, **settings),
            )
        started.append(Process(process, log))
        return started[-1]

    yield start
    for process in started:
        process.stop()
