"""What all users of one Locust process share: settings, models under test, and where their records go."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest.prompts import Prompts, Target
from loadtest.records import LOCUST_FILES, Book, Record
from loadtest.statsd import Reporter, parse_address
from loadtest.targets import listed, parse_weights

FIRST_TOKEN, BETWEEN_TOKENS, TOKENS_PER_S = "first token ms", "between tokens ms", "tokens/s"
"""Types of Locust's rows that are no requests; their "response time" is the figure itself."""
LEFT = "LEFT"
"""The type of requests that their user left; the time is that until then."""
_ANSWER_S = 10.0
_ATTRIBUTE = "loadtest_desk"


class CannotStart(Exception):
    """The test cannot begin. The text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """As Locust's command line and environment have them."""

    host: str
    models: str
    seed: int
    wait_s: float
    pace_s: float
    api_key: str
    records: str
    statsd: str

    @classmethod
    def of(cls, environment: Environment) -> Settings:
        options: Any = environment.parsed_options
        return cls(
            host=(environment.host or "").rstrip("/"),
            models=options.models or "",
            seed=int(options.seed),
            wait_s=float(options.wait_s),
            pace_s=float(options.pace_s),
            api_key=options.api_key or "",
            records=options.records or "",
            statsd=options.statsd or "",
        )

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


class Desk:
    """One per test run and process."""

    def __init__(self, environment: Environment, settings: Settings, targets: list[Target]) -> None:
        self.settings = settings
        self.targets = targets
        self.closed = False
        self._environment = environment
        self._numbers: Counter[str] = Counter()
        self._worker = _worker_index(environment)
        self._book = (
            Book(Path(settings.records), f"{os.getpid()}-{time.time_ns()}") if settings.records else None
        )
        self._statsd = Reporter(parse_address(settings.statsd)) if settings.statsd else None

    def prompts(self, user: str) -> Prompts:
        """For the next user of a class: its requests depend on the seed, the class and its number alone."""
        self._numbers[user] += 1
        return Prompts(self.settings.seed, f"{user}/{self._worker}/{self._numbers[user]}", self.targets)

    def add(self, record: Record) -> None:
        """A request is over, however it ended."""
        if self._book is not None:
            self._book.add(record)
        if self._statsd is not None:
            self._statsd.add(record)
        if record.outcome == "ok":
            self._figures(record)

    def _figures(self, record: Record) -> None:
        """Rows of their own. Not ``log_request``: that would add them to Locust's sum of all requests."""
        stats, name = self._environment.stats, record.name
        if record.first_token_ms is not None:
            stats.get(name, FIRST_TOKEN).log(cast(int, record.first_token_ms), 0)
        for gap in record.gaps_ms:
            stats.get(name, BETWEEN_TOKENS).log(cast(int, gap), 0)
        if (rate := record.tokens_per_s) is not None:
            stats.get(name, TOKENS_PER_S).log(cast(int, rate), 0)

    def tick(self) -> None:
        """Once a second."""
        if self._book is not None:
            self._book.flush()
        if self._statsd is not None:
            self._statsd.flush(users_of(self._environment))

    def close(self) -> None:
        """Idempotent: a run can end and then quit."""
        if self.closed:
            return
        self.closed = True
        self.tick()
        if self._book is not None:
            self._book.close()
        if self._statsd is not None:
            self._statsd.close()


def users_of(environment: Environment) -> int | None:
    """How many users are at work; None in a worker, which knows only its own."""
    runner = environment.runner
    return None if runner is None or isinstance(runner, WorkerRunner) else int(runner.user_count)


def _worker_index(environment: Environment) -> int:
    runner = environment.runner
    return int(runner.worker_index) if isinstance(runner, WorkerRunner) else 0


def open_desk(environment: Environment) -> Desk:
    """Ask the gateway what it has, and be ready. Raises CannotStart, BadTargets and BadAddress."""
    settings = Settings.of(environment)
    if not settings.host:
        raise CannotStart("Which gateway? Say it with --host http://ADDRESS:PORT.")
    targets: list[Target] = []
    if not isinstance(environment.runner, MasterRunner):
        targets = listed(_models(settings), parse_weights(settings.models))
    desk = Desk(environment, settings, targets)
    setattr(environment, _ATTRIBUTE, desk)
    return desk


def find_desk(environment: Environment) -> Desk | None:
    """The one of this run; None before its start."""
    return cast(Desk | None, getattr(environment, _ATTRIBUTE, None))


def _models(settings: Settings) -> Any:
    url = f"{settings.host}/v1/models"
    request = urllib.request.Request(url, headers=settings.headers)  # noqa: S310  the address is the user's
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        hint = " Put a key into GATEWAY_API_KEY." if error.code in (401, 403) else ""
        raise CannotStart(f"{url} answers with {error.code}.{hint}") from error
    except (OSError, ValueError) as error:
        raise CannotStart(f"No gateway answers at {url}: {error}") from error


def write_counts(environment: Environment, seen: Mapping[tuple[str, str], Sequence[int]]) -> None:
    """What Locust counted in this process, beside the records.

    A worker's table is emptied with every report to its master, and the master no longer listens once it
            {"type": one.method, "name": one.name, "requests": one.num_requests, "failures": one.num_failures}
    and failures by type and name), and the master nothing.
    """
    settings = Settings.of(environment)
    if not settings.records or isinstance(environment.runner, MasterRunner):
        return
    rows = [
        {"type": kind, "name": name, "requests": requests, "failures": failures}
        for (kind, name), (requests, failures) in seen.items()
    ]
    total = {
        "requests": sum(requests for requests, _ in seen.values()),
        "failures": sum(failures for _, failures in seen.values()),
    }
    if not isinstance(environment.runner, WorkerRunner):
        stats = environment.stats
        rows = [
            {"type": kind, "name": name, "requests": one.num_requests, "failures": one.num_failures}
            for (name, kind), one in stats.entries.items()
        ]
        total = {"requests": stats.total.num_requests, "failures": stats.total.num_failures}
    folder = Path(settings.records)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{LOCUST_FILES}{os.getpid()}.json"
    path.write_text(json.dumps({"total": total, "rows": rows}), encoding="utf-8")
