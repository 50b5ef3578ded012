"""What gateway, engines, machine and cards do while the users ask, looked at every second."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from loadtest.cards import Cards
from loadtest.pages import Page
from loadtest.problems import Problem
from loadtest.stand import Stand

_STATES = ("ready", "starting", "draining", "stopping", "stopped", "failed")
Row = dict[str, Any]


class Sampler(threading.Thread):
    """Adds a row to ``rows`` every ``interval_s`` until it is told to stop. A look that fails is skipped."""

    def __init__(self, stand: Stand, interval_s: float, told: Callable[[Row], None]) -> None:
        super().__init__(name="sampler", daemon=True)
        self.rows: list[Row] = []
        self.missed = 0
        self.locust: psutil.Process | None = None
        self._stand = stand
        self._interval_s = interval_s
        self._told = told
        self._ended = threading.Event()
        self._cards = Cards()
        self._gateway = None if stand.process is None else psutil.Process(stand.process.pid)
        psutil.cpu_percent()

    def run(self) -> None:
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due += self._interval_s
            try:
                row = self._look()
            except (Problem, psutil.Error, OSError):
                self.missed += 1
                continue
            self.rows.append(row)
            self._told(row)

    def stop(self) -> None:
        self._ended.set()
        self.join()
        self._cards.close()

    def _look(self) -> Row:
        row = from_page(self._stand.page())
        row["t"] = time.time()
        row["machine"] = _machine()
        row["gpu"] = self._cards.read()
        if self._gateway is not None:
            row["gateway"] = process_row(self._gateway)
            children = self._gateway.children(recursive=True)
            engines = [one for one in children if _is_engine(one)]
            row["engines"] = [process_row(one) for one in engines]
            row["supervisors"] = [process_row(one) for one in children if one not in engines]
        if self.locust is not None:
            with contextlib.suppress(psutil.Error):
                row["locust"] = tree_row(self.locust)
        return row


def from_page(page: Page) -> Row:
    """What is drawn over time, out of the gateway's own figures."""
    states: dict[str, str] = {}
    for sample in page.samples:
        if sample.name == "gateway_model_state" and sample.value == 1:
            states[sample.labels["model"]] = sample.labels["state"]
    return {
        "requests": page.by("gateway_requests_total", "status"),
        "tokens_out": page.sum("gateway_tokens_out_total"),
        "in_flight": page.by("gateway_in_flight", "model"),
        "queued": page.by("gateway_queued", "model"),
        "state": states,
        "switches": page.sum("gateway_switches_total"),
        "lost_s": page.sum("gateway_switch_lost_seconds_total"),
        "open": page.sum("gateway_generations_open"),
        "connections": page.sum("gateway_open_connections"),
        "engine_batch": page.by("gateway_engine_batch", "model"),
        "engine_queue": page.by("gateway_engine_queue", "model"),
        "loop_lag_s": page.sum("gateway_loop_lag_seconds_sum"),
        "loop_looks": page.sum("gateway_loop_lag_seconds_count"),
    }


def process_row(process: psutil.Process) -> Row:
    """One process: processor seconds so far, resident bytes, descriptors, sockets, threads."""
    with process.oneshot():
        times = process.cpu_times()
        return {
            "cpu_s": times.user + times.system,
            "rss": process.memory_info().rss,
            "fds": process.num_fds(),
            "sockets": _sockets(process.pid),
            "threads": process.num_threads(),
        }


def tree_row(process: psutil.Process) -> Row:
    """A process and its children, added up."""
    rows = [process_row(one) for one in (process, *process.children(recursive=True))]
    return {name: sum(row[name] for row in rows) for name in rows[0]}


def _sockets(pid: int) -> int:
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(entry.readlink()).startswith("socket:")
    return count


def _is_engine(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    # A supervisor has the engine's command line behind its own.
    return "gateway.engine" in command[:3] or any(part.endswith("engine_here.py") for part in command[:2])


def _machine() -> Row:
    memory = psutil.virtual_memory()
    return {"load1": psutil.getloadavg()[0], "cpu_percent": psutil.cpu_percent(), "used": memory.used}
