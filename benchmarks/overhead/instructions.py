"""How many instructions a request and a token take: ``python -m benchmarks.overhead.instructions``.

Valgrind's callgrind counts them, of the gateway and of the plain FastAPI and httpx gateway. Unlike processor
time they are nearly the same each time, however busy the machine is: a lane of `make test-all` holds them to
their bound. The kernel's own are not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.overhead.contenders import TGI, Contender, ours, yardstick
from benchmarks.overhead.guard import TOKENS, Share, ask
from benchmarks.overhead.processes import free_port, started

WARM, REQUESTS, CONNECTIONS = 40, 80, 4
STREAMS, FEW_TOKENS, MANY_TOKENS, RATE = 4, 10, 60, 20
START_S = 300.0
MEASURED = Share(request=0.105, token=0.155)
"""What the shares were when they were last set. Set them anew when the path has become cheaper."""
TIMES = 1.4
"""A share may be so many times as large: versions of Python and of libraries differ by less."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Instructions of a plain request of 20 tokens, and of one more streamed token."""

    request: float
    token: float

    def of(self, other: Counted) -> Share:
        return Share(self.request / other.request, self.token / other.token)


def counted(settings: Mapping[str, str]) -> tuple[Counted, Counted]:
    """Of the gateway with these settings, and of the yardstick. Raises RuntimeError without valgrind."""
    with tempfile.TemporaryDirectory(prefix="instructions-") as name:
        folder, port = Path(name), free_port()
        source = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "benchmarks.overhead.guard_source", str(port)]
        with started(command, source, folder / "source.log"):
            mine = _of(ours("gateway", source, folder, TGI, **settings), folder / "gateway")
            theirs = _of(yardstick(source), folder / "yardstick")
    return mine, theirs


def _of(one: Contender, folder: Path) -> Counted:
    folder.mkdir()
    with _counting(one, folder) as count:
        count(one, plain=WARM)
        request = count(one, plain=REQUESTS) / REQUESTS
        count(one, streamed=FEW_TOKENS)
        few, many = count(one, streamed=FEW_TOKENS), count(one, streamed=MANY_TOKENS)
    return Counted(request, (many - few) / (STREAMS * (MANY_TOKENS - FEW_TOKENS)))


class _Count:
    """Asks, and says how many instructions that took."""

    def __init__(self, pid: int, folder: Path) -> None:
        self._pid = pid
        self._folder = folder

    def __call__(self, one: Contender, *, plain: int = 0, streamed: int = 0) -> float:
        seen = set(self._folder.iterdir())
        self._control("--zero")
        self._control("--instr=on")
        if plain:
            asyncio.run(ask(one.port, one.way.plain(TOKENS), CONNECTIONS, plain // CONNECTIONS))
        else:
            asyncio.run(ask(one.port, one.way.stream(streamed, RATE), STREAMS, 1))
        self._control("--instr=off")
        self._control("--dump")
        totals = [total for path in set(self._folder.iterdir()) - seen for total in _totals(path)]
        if not totals:
            raise RuntimeError("callgrind wrote no count")
        return sum(totals)

    def _control(self, what: str) -> None:
        subprocess.run(["callgrind_control", what, str(self._pid)], check=True, capture_output=True)


def _totals(path: Path) -> Iterator[float]:
    if path.suffix == ".log":
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("totals:"):
            yield float(line.split()[1])


@contextmanager
def _counting(one: Contender, folder: Path) -> Iterator[_Count]:
    command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/count"]
    url = f"http://{one.address}{one.health}"
    with started([*command, *one.command], url, folder / "program.log", one.env, START_S) as weighed:
        yield _Count(weighed.pid, folder)


def too_dear(share: Share) -> str | None:
    """What has become dear, in words; None when nothing has."""
    return share.beyond(MEASURED, TIMES, "instructions")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead.instructions")
    parser.add_argument("--compiled", action="store_true", help="of what `make compile` has made")
    mine, theirs = counted({"GATEWAY_COMPILED": ""} if parser.parse_args().compiled else {})
    share = mine.of(theirs)
    print(f"a request: {mine.request:,.0f} instructions, {share.request:.3f} of the yardstick's")
    print(f"a token: {mine.token:,.0f} instructions, {share.token:.3f} of the yardstick's")
    if why := too_dear(share):
        print(why, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
