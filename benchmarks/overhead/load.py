"""The load client as Python sees it: one call, one result; or a run whose marks are waited for."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.overhead.contenders import Asked


@dataclass(frozen=True, slots=True)
class Mark:
    """An instant at which every stream had begun, or some seconds later; ``tokens`` had come by then."""

    name: str
    tokens: int


class Run:
    """A load client at work. ``mark`` blocks until it says the next one, ``result`` until it is done."""

    def __init__(self, process: subprocess.Popen[str], asked: Asked) -> None:
        self._process = process
        self._asked = asked

    def mark(self) -> Mark:
        said = json.loads(self._line())
        if "mark" not in said:
            raise RuntimeError(f"the load client ended before its mark: {said}")
        return Mark(said["mark"], said["tokens"])

    def result(self) -> dict[str, Any]:
        """Raises RuntimeError when a request failed."""
        said: dict[str, Any] = json.loads(self._line())
        while "mark" in said:
            said = json.loads(self._line())
        for part in (said, said.get("beside", {})):
            if part.get("failed"):
                raise RuntimeError(f"{part['failed']} requests to {self._asked.path} failed: {part['why']}")
        return said

    def kill(self) -> None:
        """All its connections are closed at once, as those of clients that leave."""
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load client said nothing and ended")
        return line


@contextmanager
def running(load: Path, address: str, asked: Asked, **options: float | str | bool) -> Iterator[Run]:
    """Start the load client; names of options are its flags. What still runs at the end is ended."""
    command = [str(load), "-address", address, "-path", asked.path, "-body", asked.body]
    for name, value in options.items():
        flag = "-" + name.replace("_", "-")
        command += [flag] if value is True else [flag, str(value)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        run = Run(process, asked)
        try:
            yield run
        finally:
            run.kill()


def run(load: Path, address: str, asked: Asked, **options: float | str | bool) -> dict[str, Any]:
    """The result of a whole run. Raises RuntimeError when a request failed."""
    with running(load, address, asked, **options) as one:
        return one.result()
