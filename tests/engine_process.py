"""Real engine processes, started by their command line, spoken to over real sockets."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).parents[1]
_LISTENING = re.compile(r"Listening on (http://\S+)")
DEADLINE_S = 30.0


@dataclass
class Engine:
    """One engine process and what it has said on standard error."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    arrivals: queue.Queue[str | None] = field(default_factory=queue.Queue)
    url: str = ""

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        # Making a client costs more than most tests here; no connection is kept, so each request has its own.
        self.http = httpx.Client(
            verify=False,  # noqa: S501 -- plain HTTP; loading certificates is what takes the time
            trust_env=False,
            timeout=DEADLINE_S,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            self.arrivals.put(line)
        self.arrivals.put(None)

    def wait_for_line(self, pattern: str, timeout_s: float = DEADLINE_S) -> re.Match[str]:
        """Wait for a line not waited for before; fails with the log when the process ends first."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            line = self.arrivals.get(timeout=max(0.01, deadline_s - time.monotonic()))
            assert line is not None, f"ended without {pattern!r}:\n" + "\n".join(self.lines)
            match = re.search(pattern, line)
            if match:
                return match

    def wait_ready(self) -> Engine:
        self.url = self.wait_for_line(_LISTENING.pattern)[1]
        return self

    def post(self, path: str, body: object, **options: Any) -> httpx.Response:
        return self.http.post(self.url + path, json=body, **options)

    def get(self, path: str) -> httpx.Response:
        return self.http.get(self.url + path)

    def generate(self, inputs: str, **parameters: Any) -> dict[str, Any]:
        answer = self.post("/generate", {"inputs": inputs, "parameters": {"details": True, **parameters}})
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def stream(self, inputs: str, **parameters: Any) -> list[dict[str, Any]]:
        body = {"inputs": inputs, "parameters": {"details": True, **parameters}}
        with self.http.stream("POST", self.url + "/generate_stream", json=body) as answer:
            assert answer.status_code == 200
            return [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]

    def metric(self, name: str) -> float:
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        return 0.0

    def child_pids(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def end(self, number: int = signal.SIGTERM, timeout_s: float = DEADLINE_S) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def finish(self) -> None:
        """End it whatever it takes, and let go of its pipe."""
        try:
            self.end(timeout_s=20)
        except subprocess.TimeoutExpired:
            self.end(signal.SIGKILL)
        self.http.close()
        self._reader.join(DEADLINE_S)
        assert self.process.stderr is not None
        self.process.stderr.close()


def until(condition: Callable[[], bool], timeout_s: float = DEADLINE_S) -> None:
    """Wait on a condition with a deadline."""
    deadline_s = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true in time"
        pause.wait(0.02)


def launch(*arguments: str, env: dict[str, str] | None = None) -> Engine:
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.engine", "--port", "0", *arguments],
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
    )
    return Engine(process)
