"""A real InfluxDB and a real Telegraf as processes, on free ports, with the configuration that is shipped."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from harness import REPOSITORY, free_port, until

MONITORING = REPOSITORY / "monitoring"
INIT = MONITORING / "influxdb" / "init.iql"
FLUSH_S = 1


@dataclass(slots=True)
class Series:
    """One series of an answer: its tags, and rows of column to value (times in milliseconds)."""

    name: str
    tags: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class Process:
    """A process that can be killed and started again on the same port and data."""

    command: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **self.env}
            )

    def kill(self) -> None:
        """As a crash does: no last words."""
        self.end(signal.SIGKILL)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


class Influx(Process):
    """InfluxDB, with the database, retention and down-sampling of ``init.iql``."""

    def __init__(self, binary: str, folder: Path) -> None:
        self.port = free_port()
        folder.mkdir()
        config = folder / "influxdb.conf"
        config.write_text(_INFLUX.format(folder=folder, port=self.port, rpc=free_port()), encoding="utf-8")
        super().__init__([binary, "-config", str(config)], folder / "influxd.log")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.output
        try:
            return httpx.get(self.url + "/ping", timeout=2).status_code == httpx.codes.NO_CONTENT
        except httpx.TransportError:
            return False

    def ready(self) -> None:
        self.start()
        until(self.answers, "InfluxDB to answer", 30)

    def set_up(self) -> None:
        """All of the file in one question, as the image's first start does."""
        self.ask(INIT.read_text(encoding="utf-8"))

    def ask(self, query: str) -> list[Series]:
        """Run InfluxQL. An error inside the answer is a failure."""
        data = {"db": "gateway", "epoch": "ms", "q": query}
        answer = httpx.post(self.url + "/query", data=data, timeout=30)
        body = answer.json()
        errors = [body.get("error"), *(result.get("error") for result in body.get("results", ()))]
        assert answer.status_code == httpx.codes.OK, f"{query}\n{body}"
        assert not any(errors), f"{query}\n{errors}"
        found = [series for result in body["results"] for series in result.get("series", ())]
        return [_series(one) for one in found]

    def total(self, measurement: str, where: str = "", value: str = 'sum("value")') -> float:
        """One number over everything that is stored; 0 when there is nothing."""
        clause = f" WHERE {where}" if where else ""
        found = self.ask(f'SELECT {value} AS "it" FROM "gateway"."raw"."{measurement}"{clause}')
        return float(found[0].rows[0]["it"] or 0) if found else 0.0


def _series(found: Mapping[str, Any]) -> Series:
    rows = [dict(zip(found["columns"], values, strict=True)) for values in found["values"]]
    return Series(found.get("name", ""), found.get("tags", {}), rows)


class Telegraf(Process):
    """Telegraf with the shipped file; addresses and interval come from the environment, as in production."""

    def __init__(self, binary: str, folder: Path, influx_url: str, flush_s: float = FLUSH_S) -> None:
        self.port = free_port()
        env = {
            "STATSD_ADDRESS": f"127.0.0.1:{self.port}",
            "INFLUXDB_URL": influx_url,
            "TELEGRAF_INTERVAL": f"{flush_s}s",
            "TELEGRAF_HOSTNAME": "lane",
        }
        command = [binary, "--config", str(MONITORING / "telegraf.conf")]
        super().__init__(command, folder / "telegraf.log", env)

    def ready(self) -> None:
        self.start()
        until(self.listens, f"Telegraf to listen:\n{self.output}", 30)

    def listens(self) -> bool:
        """Whether its UDP port is taken, which the kernel says."""
        assert self.process is not None
        assert self.process.poll() is None, self.output
        wanted = f":{self.port:04X}"
        return any(
            line.split()[1].endswith(wanted) for line in Path("/proc/net/udp").read_text().splitlines()[1:]
        )


_INFLUX = """\
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
  dir = "{folder}/meta"
[data]
  dir = "{folder}/data"
  wal-dir = "{folder}/wal"
  query-log-enabled = false
[http]
  bind-address = "127.0.0.1:{port}"
  log-enabled = false
[logging]
  level = "warn"
"""
