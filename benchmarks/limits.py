"""What one gateway process bears: many streams at once, many requests one after the other, and more workers.

``python -m benchmarks.limits`` holds 5,000 idle and 2,000 active streams; ``--requests 1000000`` looks at
memory over so many plain requests; ``--workers 1,2`` at how several processes scale. Each part stores its
figures beside those of benchmarks.overhead, and writes docs/BENCHMARKS.md anew.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.overhead import load, parts, results
from benchmarks.overhead.__main__ import write_page
from benchmarks.overhead.contenders import TGI, Asked, Contender, ours
from benchmarks.overhead.processes import Weighed, free_port, started

PLAIN_RATE = 20.0
STEP = 10_000
CONNECTIONS = 16
BACK_S = 30.0
_ROUNDS = 3
_SPARE = 200  # file descriptors that are neither a client's nor an engine's


@dataclass(frozen=True, slots=True)
class Place:
    """A gateway at work, what it is asked with, and how many file descriptors a process may have."""

    gateway: Contender
    weighed: Weighed
    load: Path
    descriptors: int


@dataclass(frozen=True, slots=True)
class Phase:
    """So many streams, held for so long. Without a rate they are idle: the engine is silent after a token."""

    kind: str
    streams: int
    rate: int
    held_s: float


def main() -> int:
    options = _options()
    built = parts.go_parts()
    descriptors = _raised()
    if options.workers:
        results.keep("workers", _workers(built, options.workers, descriptors))
    elif options.requests:
        with _gateway(built, descriptors) as place:
            _requests(place, options.requests)
    else:
        results.keep("streams", _streams(built, descriptors, options))
    write_page()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("--idle", type=int, default=5_000, metavar="STREAMS")
    parser.add_argument("--active", type=int, default=2_000, metavar="STREAMS")
    parser.add_argument("--rate", type=int, default=2, help="tokens/s of an active stream (2)")
    parser.add_argument("--held-s", type=float, default=20.0, help="how long all of them are held (20)")
    parser.add_argument(
        "--requests",
        type=int,
        default=0,
        help="memory over so many plain requests instead; figures are stored as it goes, but are those of "
        "one process: when stopped, it begins anew",
    )
    parser.add_argument("--workers", help="such as 1,2: how that many processes scale, instead")
    return parser.parse_args()


def _raised() -> int:
    """As many file descriptors as this user may have, for all that is started here."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


@contextmanager
def _gateway(built: parts.Parts, descriptors: int, **settings: str) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="limits-") as name:
        folder, port = Path(name), free_port()
        source = f"http://127.0.0.1:{port}"
        with started([str(built.source), "-port", str(port)], source, folder / "source.log"):
            one = ours("gateway", source, folder, TGI, **settings)
            with started(
                one.command, f"http://{one.address}/health", folder / "gateway.log", one.env
            ) as weighed:
                yield Place(one, weighed, built.load, descriptors)


# ---------------------------------------------------------------- streams


def _streams(built: parts.Parts, descriptors: int, options: argparse.Namespace) -> dict[str, Any]:
    """Each kind in a process of its own: what Python has once got from the system it uses again."""
    most = (descriptors - _SPARE) // 2
    phases = [
        Phase("idle", min(options.idle, most), 0, options.held_s),
        Phase("active", min(options.active, most), options.rate, options.held_s),
    ]
    found = []
    for phase in phases:
        if phase.streams:
            with _gateway(built, descriptors) as place:
                found.append(_phase(place, phase))
    return {"plain_rate": PLAIN_RATE, "descriptors_limit": descriptors, "phases": found}


def _phase(place: Place, phase: Phase) -> dict[str, Any]:
    """Open the streams, look while they are held and plain requests come; then all leave: look again."""
    address, plain = place.gateway.address, place.gateway.way.plain(20)
    load.run(place.load, address, plain, workers=CONNECTIONS, count=2_000)
    _quiet(place.weighed, None)
    before = _weight(place.weighed)
    alone = _paced(place, plain, phase.held_s)
    spread_s = phase.streams / 500
    print(f"{phase.streams} {phase.kind} streams begin", file=sys.stderr, flush=True)
    options: dict[str, float | bool] = {"workers": phase.streams, "count": phase.streams}
    options |= {"spread": spread_s, "patience": 600, "steady": True}
    with load.running(
        place.load, address, _stream(phase, spread_s), window=phase.held_s + 5, **options
    ) as run:
        begun = run.mark()
        used, since = place.weighed.cpu_s(), time.monotonic()
        beside = _paced(place, plain, phase.held_s)
        lasted = time.monotonic() - since
        busy = place.weighed.cpu_s() - used
        weight = _weight(place.weighed)
        end = run.mark()
        if (held := weight["sockets"] // 2) < phase.streams:
            raise RuntimeError(
                f"only {held:g} of {phase.streams} streams were still there after {lasted:.0f} s"
            )
        said = run.result() if phase.rate else {}
        run.kill()
    found = {
        "kind": phase.kind,
        "streams": phase.streams,
        "rate": phase.rate,
        "held_s": phase.held_s,
        "before": before,
        "with": weight,
        "kib_per_stream": 1024 * (weight["rss_mib"] - before["rss_mib"]) / phase.streams,
        "busy_percent": 100 * busy / lasted,
        "tokens_through": (end.tokens - begun.tokens) / (phase.held_s + 5),
        "lag_p50_ms": said.get("lag_p50_ms", 0.0),
        "lag_p99_ms": said.get("lag_p99_ms", 0.0),
        "alone": alone,
        "plain": beside,
    }
    _quiet(place.weighed, before)
    after = _weight(place.weighed)
    with load.running(place.load, address, _stream(phase, spread_s), window=0.5, **options) as run:
        run.mark()
        again = _weight(place.weighed)
        run.kill()
    return {**found, "after": after, "again": again}


def _stream(phase: Phase, spread_s: float) -> Asked:
    """What outlasts the time for which all are held: idle ones are ended by their clients."""
    if phase.rate:
        return TGI.stream(int((spread_s + phase.held_s + 10) * phase.rate), phase.rate)
    asked = TGI.stream(2, 1)
    return Asked(asked.path, asked.body.replace("rate=1 ", "rate=1 pause=600 "))


def _paced(place: Place, plain: Asked, seconds: float) -> dict[str, float]:
    said = load.run(place.load, place.gateway.address, plain, workers=8, seconds=seconds, rate=PLAIN_RATE)
    return {name: said[name] for name in ("latency_p50_ms", "latency_p99_ms", "latency_max_ms")}


def _weight(weighed: Weighed) -> dict[str, float]:
    return {
        "rss_mib": weighed.rss_bytes() / 2**20,
        "sockets": weighed.sockets(),
        "descriptors": weighed.descriptors(),
    }


def _quiet(weighed: Weighed, before: dict[str, float] | None) -> None:
    """Wait until what was opened is closed: kept connections to the engine go after a few seconds."""
    deadline, least = time.monotonic() + BACK_S, weighed.descriptors()
    most = before["descriptors"] if before else 0
    since = time.monotonic()
    while time.monotonic() < deadline:
        now = weighed.descriptors()
        if now < least:
            least, since = now, time.monotonic()
        if now <= most or (not before and time.monotonic() - since > 6):
            return
        time.sleep(0.2)


# ---------------------------------------------------------------- requests


def _requests(place: Place, asked: int) -> None:
    """Memory after every ten thousand, stored as it goes: what was seen is kept when this is stopped."""
    plain, memory, begun = place.gateway.way.plain(20), {}, time.monotonic()
    for done in range(STEP, asked + 1, STEP):
        load.run(place.load, place.gateway.address, plain, workers=CONNECTIONS, count=STEP)
        memory[str(done)] = round(place.weighed.rss_bytes() / 2**20, 2)
        rate = done / (time.monotonic() - begun)
        left_min = (asked - done) / rate / 60
        print(
            f"{done:>9,} of {asked:,}: {memory[str(done)]:.2f} MiB, {rate:,.0f} a second, "
            f"{left_min:.0f} min left",
            file=sys.stderr,
            flush=True,
        )
        results.keep("requests", {"asked": asked, "done": done, "memory": memory})


# ---------------------------------------------------------------- workers


def _workers(built: parts.Parts, asked: str, descriptors: int) -> dict[str, Any]:
    """The same load on one process and on several. Skipped where the gateway cannot do that."""
    said = subprocess.run(
        [sys.executable, "-m", "gateway", "serve", "--help"], capture_output=True, text=True, check=False
    )
    if "--workers" not in said.stdout:
        why = "this gateway has one process: `serve` has no option `--workers`."
        print(f"Left out: {why}", file=sys.stderr)
        return {"asked": asked, "why_not": why}
    runs = [_scaled(built, int(count), descriptors) for count in asked.split(",")]
    return {"asked": asked, "rounds": _ROUNDS, "runs": runs}


def _scaled(built: parts.Parts, workers: int, descriptors: int) -> dict[str, Any]:
    with _gateway(built, descriptors, GATEWAY_WORKERS=str(workers)) as place:
        address, way = place.gateway.address, place.gateway.way
        rounds: list[tuple[float, float, float]] = []
        for number in range(_ROUNDS + 1):
            before = place.weighed.cpu_s()
            closed = load.run(place.load, address, way.plain(20), workers=64, seconds=4)
            between = place.weighed.cpu_s()
            streamed = load.run(place.load, address, way.stream(200, 50), workers=100, count=100, spread=0.02)
            after = place.weighed.cpu_s()
            if number:  # the first one is to warm up
                per_request = 1e6 * (between - before) / closed["requests"]
                per_token = 1e6 * (after - between) / streamed["tokens"]
                rounds.append((closed["requests"] / closed["seconds"], per_request, per_token))
        rate, request, token = (median(values) for values in zip(*rounds, strict=True))
        return {
            "workers": workers,
            "requests_per_s": rate,
            "cpu_us_per_request": request,
            "cpu_us_per_token": token,
            "rss_mib": place.weighed.rss_bytes() / 2**20,
        }


if __name__ == "__main__":
    sys.exit(main())
