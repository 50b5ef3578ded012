"""What a check finds, and what it may look at."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gateway.config import Registry
from gateway.settings import Settings

Level = Literal["ok", "warning", "failure"]
COMMAND_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: what was looked at, how it is, and what to do about it."""

    check: str
    level: Level
    message: str
    hint: str | None = None


def ok(check: str, message: str) -> Finding:
    return Finding(check, "ok", message)


def warning(check: str, message: str, hint: str) -> Finding:
    return Finding(check, "warning", message, hint)


def failure(check: str, message: str, hint: str) -> Finding:
    return Finding(check, "failure", message, hint)


@dataclass(frozen=True, slots=True)
class Output:
    """What a program said. ``text`` has both of its streams."""

    status: int
    text: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything that checks look at. ``registry`` is None when its file cannot be used."""

    settings: Settings
    registry: Registry | None
    models: Path
    environment: Mapping[str, str]
    proc: Path = field(default=Path("/proc"))

    def find(self, program: str) -> str | None:
        """Where a program is; None when it is not installed."""
        return shutil.which(program, path=self.environment.get("PATH"))

    def run(self, *command: str) -> Output | None:
        """What a program says; None when it is not installed. Blocks for at most ``COMMAND_TIMEOUT_S``."""
        program = self.find(command[0])
        if program is None:
            return None
        try:
            done = subprocess.run(  # noqa: S603  fixed commands of ours, found on the PATH
                [program, *command[1:]],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=COMMAND_TIMEOUT_S,
                env=dict(self.environment),
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Output(124, f"{command[0]} did not answer for {COMMAND_TIMEOUT_S:g} s")
        except OSError as error:
            return Output(126, f"{command[0]} cannot be run: {error.strerror or error}")
        return Output(done.returncode, (done.stdout + done.stderr).strip())

    @property
    def uses_card(self) -> bool:
        """Whether the registry counts the memory of a graphics card."""
        return self.registry is not None and any(one.reader == "nvml" for one in self.registry.devices)

    @property
    def uses_containers(self) -> bool:
        """Whether engines run beside supervisors that are not ours to start."""
        return self.registry is not None and any(one.supervisor for one in self.registry.models)

    @property
    def embedded(self) -> list[str]:
        """Models that our own engine serves, by the source of their weights."""
        return self.registry.embedded_weights() if self.registry else []


def first_line(text: str) -> str:
    """What a program said first, ready to stand inside a sentence."""
    return next((line.strip().rstrip(".?!") for line in text.splitlines() if line.strip()), "nothing")
