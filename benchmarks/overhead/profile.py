"""Where the gateway's time goes: ``python -m benchmarks.overhead.profile NAME`` samples it under load.

Writes ``profiles/plain-NAME.txt`` and ``profiles/tokens-NAME.txt``: functions by how many samples they were
at the top of (self), and anywhere in (cumulative). Needs Go, and py-spy, which is installed from PyPI into an
environment of its own; on most systems only root may look into another process.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.overhead import load, parts
from benchmarks.overhead.contenders import TGI, Asked, ours
from benchmarks.overhead.processes import free_port, started

FOLDER = Path(__file__).parent / "profiles"
SHOWN_SELF, SHOWN_CUMULATIVE = 30, 45
_LINE = re.compile(r":\d+\)$")
_PLACE = re.compile(r"\((?:.*/site-packages/|.*/(?=gateway/)|.*/python3[^/]*/)?(.*)\)$")
# What only calls everything else says nothing.
_ABOVE = re.compile(
    r"<module>|main\b|.*\((uvicorn/(server|_compat|main)|asyncio/runners|uvloop/|<frozen|gateway/cli)"
)


@dataclass(frozen=True, slots=True)
class Load:
    """What the gateway is asked while it is looked at."""

    title: str
    asked: Asked
    options: Mapping[str, float]


def main() -> int:
    options = _options()
    py_spy = parts.py_spy()
    if py_spy is None:
        return 1
    built = parts.go_parts()
    tokens = int(50 * (options.seconds + 8))
    loads = {
        "plain": Load(
            "Plain requests, 64 at once", TGI.plain(20), {"workers": 64, "seconds": options.seconds + 6}
        ),
        "tokens": Load(
            "60 streams of 50 tokens/s", TGI.stream(tokens, 50), {"workers": 60, "count": 60, "spread": 0.02}
        ),
    }
    for name, one in loads.items():
        stacks = _sampled(built, py_spy, one, options)
        path = FOLDER / f"{name}-{options.name}.txt"
        path.write_text(text(f"{one.title}, {options.name}", stacks, native=options.native), encoding="utf-8")
        print(path)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead.profile", description=__doc__)
    parser.add_argument("name", nargs="?", default="now", help="part of the files' names, such as after")
    parser.add_argument("--seconds", type=int, default=15, help="how long each is looked at (15)")
    parser.add_argument("--native", action="store_true", help="C frames too: slower, and less exact")
    return parser.parse_args()


def _sampled(
    built: parts.Parts, py_spy: Path, what: Load, options: argparse.Namespace
) -> Counter[tuple[str, ...]]:
    with tempfile.TemporaryDirectory(prefix="profile-") as name:
        folder, port = Path(name), free_port()
        source = f"http://127.0.0.1:{port}"
        one = ours("gateway", source, folder, TGI)
        with (
            started([str(built.source), "-port", str(port)], source, folder / "source.log"),
            started(one.command, f"http://{one.address}/health", folder / "gateway.log", one.env) as weighed,
        ):
            load.run(built.load, one.address, TGI.plain(20), workers=16, count=2_000)
            with load.running(built.load, one.address, what.asked, window=0.5, **what.options) as run:
                run.mark()
                raw = folder / "stacks"
                command = [
                    str(py_spy),
                    "record",
                    "--pid",
                    str(weighed.pid),
                    "--format",
                    "raw",
                    "--rate",
                    "200",
                ]
                command += ["--duration", str(options.seconds), "--output", str(raw)]
                subprocess.run(
                    command + (["--native"] if options.native else []), check=True, capture_output=True
                )
                run.kill()
            return Counter(dict(_stacks(raw.read_text(encoding="utf-8"))))


def _stacks(raw: str) -> Iterator[tuple[tuple[str, ...], int]]:
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if frames := tuple(frame for frame in stack.split(";") if frame):
            yield frames, int(count)


def text(title: str, stacks: Mapping[tuple[str, ...], int], *, native: bool = False) -> str:
    """Both tables. Frames are functions: lines of one function are added up."""
    alone: Counter[str] = Counter()
    anywhere: Counter[str] = Counter()
    for stack, count in stacks.items():
        frames = [named(frame) for frame in stack]
        alone[frames[-1]] += count
        for frame in set(frames):
            anywhere[frame] += count
    total = sum(alone.values()) or 1
    lines = [
        title,
        f"{total} samples of the process while it worked (py-spy{', C frames too' if native else ''}).",
    ]
    lines += ["", "self", *_shares(alone, total, SHOWN_SELF)]
    told = Counter({name: count for name, count in anywhere.items() if not _ABOVE.match(name)})
    return "\n".join([*lines, "", "cumulative", *_shares(told, total, SHOWN_CUMULATIVE), ""])


def _shares(counted: Counter[str], total: int, shown: int) -> list[str]:
    return [f"{100 * count / total:6.1f} %  {name}" for name, count in counted.most_common(shown)]


def named(frame: str) -> str:
    """A frame of py-spy's without the line, and without where things are installed."""
    place = _PLACE.search(_LINE.sub(")", frame))
    return frame if place is None else f"{frame.partition(' (')[0]} ({place[1]})"


if __name__ == "__main__":
    sys.exit(main())
