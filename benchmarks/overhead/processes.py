"""Processes under measurement: started, waited for, weighed with all their children, and ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_START_S = 60.0
_STOP_S = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Weighed:
    """A process and all its descendants."""

    pid: int

    def cpu_s(self) -> float:
        """Processor time so far, user and system, of children that ended as well. Resolution: 10 ms."""
        return sum(map(_ticks, self._tree())) / _TICKS_PER_S

    def rss_bytes(self) -> int:
        """Resident memory now; pages that processes share count for each of them."""
        return sum(map(_rss_bytes, self._tree()))

    def sockets(self) -> int:
        """Open file descriptors that are sockets."""
        return sum(self._are_sockets())

    def descriptors(self) -> int:
        """All open file descriptors."""
        return sum(map(_open_files, self._tree()))

    def _are_sockets(self) -> Iterator[bool]:
        for pid in self._tree():
            for name in _listed(Path(f"/proc/{pid}/fd")):
                with suppress(OSError):  # closed since
                    yield str(Path(f"/proc/{pid}/fd/{name}").readlink()).startswith("socket:")

    def _tree(self) -> list[int]:
        found = [self.pid]
        for pid in found:
            for task in _listed(Path(f"/proc/{pid}/task")):
                found += map(int, _read(Path(f"/proc/{pid}/task/{task}/children")).split())
        return found


def _listed(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []


def _open_files(pid: int) -> int:
    """The kernel's own count, since Linux 6.2; a list of thousands is read while it changes."""
    folder = Path(f"/proc/{pid}/fd")
    try:
        return folder.stat().st_size or len(_listed(folder))
    except OSError:
        return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _ticks(pid: int) -> int:
    # The second field is the program's name in parentheses, and may hold anything.
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))


def _rss_bytes(pid: int) -> int:
    fields = _read(Path(f"/proc/{pid}/statm")).split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if fields else 0


def listening(host: str, port: int) -> Weighed | None:
    """Whoever listens there, if that is a process of this machine that we may look at."""
    if host not in ("127.0.0.1", "localhost"):
        return None
    try:
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port and one.pid:
                return Weighed(one.pid)
    except psutil.AccessDenied:
        pass
    return None


@contextmanager
def started(
    command: list[str],
    url: str,
    log: Path,
    env: Mapping[str, str] | None = None,
    start_s: float = _START_S,
) -> Iterator[Weighed]:
    """Run ``command`` while the block runs. Blocks until ``url`` answers with less than status 500."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
        )
    try:
        _await(process, url, log, start_s)
        yield Weighed(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], url: str, log: Path, start_s: float) -> None:
    deadline = time.monotonic() + start_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"it ended at once:\n{log.read_text(errors='replace')[-2000:]}")
        try:
            urllib.request.urlopen(url, timeout=2).close()  # noqa: S310  our own loopback address
        except urllib.error.HTTPError as error:
            if error.code < 500:
                return
        except OSError:
            pass
        else:
            return
        time.sleep(0.1)
    raise RuntimeError(f"nothing answers at {url}:\n{log.read_text(errors='replace')[-2000:]}")
