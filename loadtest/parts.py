"""One part of a run: Locust for a while, looked at from outside."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from loadtest.problems import Problem
from loadtest.progress import Progress
from loadtest.records import Record, UnreadableRecords, locust_counts, read
from loadtest.sampler import Row, Sampler
from loadtest.stand import REPOSITORY, Stand

LET_FINISH_S = 60
"""At the end of a part, requests under way get this long; what is left then is cut off, and counted so."""
_CANNOT_START = 3
_OUR_ERROR = "/ERROR/loadtest: "


@dataclass(frozen=True, slots=True)
class Part:
    """What Locust is told. ``users`` is None where a shape decides; ``options`` go to it as they are."""

    name: str
    seconds: float
    users: int | None
    locustfile: str = "locustfile.py"
    classes: tuple[str, ...] = ()
    models: str = ""
    options: tuple[str, ...] = ()


@dataclass(slots=True)
class Conduct:
    """What all parts of a run have in common."""

    seed: int = 1
    wait_s: float = 2.0
    sample_s: float = 1.0
    processes: int = 1
    statsd: str = ""


@dataclass(slots=True)
class PartResult:
    """What came of one part. ``began`` and ``ended`` are seconds since the epoch; ``ended`` is when no new
    request was sent any more."""

    part: Part
    began: float
    ended: float
    samples: list[Row] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    locust: dict[str, Any] = field(default_factory=dict)
    missed: int = 0

    def as_json(self) -> dict[str, Any]:
        """Without the records, which are in files of their own."""
        return {
            "name": self.part.name,
            "seconds": self.part.seconds,
            "users": self.part.users,
            "classes": list(self.part.classes),
            "models": self.part.models,
            "began": self.began,
            "ended": self.ended,
            "samples": self.samples,
            "locust": self.locust,
            "missed": self.missed,
        }


def run(part: Part, stand: Stand, conduct: Conduct, folder: Path) -> PartResult:
    """Blocks until the last client has its answer. Raises Problem."""
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress(part.name, part.seconds)
    sampler = Sampler(stand, conduct.sample_s, progress.told)
    began = time.time()
    with (folder / "locust.log").open("wb") as log:
        process = subprocess.Popen(
            command(part, stand, conduct, folder),
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        sampler.locust = psutil.Process(process.pid)
        sampler.start()
        try:
            _await_all(process)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
            sampler.stop()
            progress.end()
    _checked(process.returncode, folder)
    ended = min(time.time(), began + part.seconds)
    try:
        counts, records = locust_counts(folder), read(folder)
    except UnreadableRecords as error:
        raise Problem(f"Locust's records cannot be read: {error}") from error
    return PartResult(part, began, ended, sampler.rows, records, counts, sampler.missed)


def _await_all(process: subprocess.Popen[bytes]) -> None:
    """Wait for Locust and all its workers: they write what they counted after their master has gone."""
    workers: set[psutil.Process] = set()
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            workers |= set(psutil.Process(process.pid).children(recursive=True))
        time.sleep(0.2)
    psutil.wait_procs(workers, timeout=LET_FINISH_S)


def command(part: Part, stand: Stand, conduct: Conduct, folder: Path) -> Sequence[str]:
    said = [sys.executable, "-m", "locust", "-f", str(REPOSITORY / "loadtest" / part.locustfile)]
    said += ["--headless", "--only-summary", "--exit-code-on-error", "0", "--host", stand.url]
    said += ["--stop-timeout", str(LET_FINISH_S), "--records", str(folder.resolve())]
    said += ["--seed", str(conduct.seed), "--wait-s", f"{conduct.wait_s:g}", "--models", part.models]
    if part.users is not None:
        rate = max(1, round(part.users / 5))
        said += ["--users", str(part.users), "--spawn-rate", str(rate), "--run-time", f"{part.seconds:.0f}s"]
    if conduct.processes > 1:
        said += ["--processes", str(conduct.processes)]
    if conduct.statsd:
        said += ["--statsd", conduct.statsd]
    return [*said, *part.options, *part.classes]


def _checked(code: int, folder: Path) -> None:
    if code == 0:
        return
    text = (folder / "locust.log").read_text(encoding="utf-8", errors="replace")
    if code == _CANNOT_START:
        said = [line.partition(_OUR_ERROR)[2] for line in text.splitlines() if _OUR_ERROR in line]
        raise Problem(said[0] if said else text[-800:])
    raise Problem(f"Locust ended with {code}. The end of {folder / 'locust.log'}:\n{text[-1500:]}")
