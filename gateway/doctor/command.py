"""``python -m gateway doctor``: one line for each thing that can be wrong, and what to do about it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from gateway.config import Registry
from gateway.doctor import containers, machine, models
from gateway.doctor.findings import Finding, Level, Surroundings, failure, ok
from gateway.registry import RegistryError
from gateway.settings import Settings, SettingsError

MARKS: dict[Level, str] = {"ok": "ok     ", "warning": "warning", "failure": "FAILURE"}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models-dir", type=Path, default=Path("models"), help="where the models' folders are"
    )
    parser.add_argument("--json", action="store_true", help="for machines")


def run(
    options: argparse.Namespace, settings: Callable[[], Settings], registry: Callable[[Path], Registry]
) -> int:
    """Print the report; 1 when anything fails, else 0."""
    findings = list(_findings(options, settings, registry))
    if options.json:
        print(json.dumps([asdict(one) for one in findings], indent=2))  # noqa: T201
    else:
        for line in _lines(findings):
            print(line)  # noqa: T201
        sys.stdout.flush()
    return int(any(one.level == "failure" for one in findings))


def _findings(
    options: argparse.Namespace, settings: Callable[[], Settings], registry: Callable[[Path], Registry]
) -> Iterator[Finding]:
    try:
        found = settings()
    except SettingsError as error:
        yield failure("settings", str(error), "Correct the environment, or the .env file of compose.")
        return
    yield ok("settings", "the environment can be used")
    known: Registry | None = None
    try:
        known = registry(found.config)
    except RegistryError as error:
        yield failure("config", str(error), "Correct the file: all of its problems are listed.")
    else:
        yield ok("config", f"{found.config}: {', '.join(model.id for model in known.models)}")
    around = Surroundings(found, known, options.models_dir, dict(os.environ))
    for part in (machine, containers, models):
        yield from part.checks(around)


def _lines(findings: Iterable[Finding]) -> Iterator[str]:
    counts: Counter[str] = Counter()
    for one in findings:
        counts[one.level] += 1
        yield f"{MARKS[one.level]}  {one.check}: {one.message}"
        if one.hint:
            yield f"         → {one.hint}"
    yield ""
    yield f"{counts['failure']} failures, {counts['warning']} warnings, {counts['ok']} ok"
