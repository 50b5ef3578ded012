"""Whether the gateway has become dear: ``python -m benchmarks.overhead.guard``, which `make test` runs, too.

Processor time of the gateway as a share of what the plain FastAPI and httpx gateway takes for the same, in
alternating rounds of one run, so that a slow or busy machine slows both. It needs nothing but Python: engine
and client are not weighed. A closer look, which needs valgrind, is in instructions.py.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.overhead.contenders import TGI, Asked, Contender, ours, yardstick
from benchmarks.overhead.processes import Weighed, free_port, started

ROUNDS = 3
CONNECTIONS = 16
TOKENS = 20
STREAMS, STREAM_TOKENS, RATE = 16, 150, 100


@dataclass(frozen=True, slots=True)
class Share:
    """Our processor time, as a share of the yardstick's: for a plain request, and for a streamed token."""

    request: float
    token: float

    def beyond(self, then: Share, times: float, unit: str) -> str | None:
        """In words, what is more than so many times what it was; None when nothing is."""
        found = [
            f"{what} takes {now:.3f} of the yardstick's {unit}; it was {was:.3f}, may be {times * was:.3f}"
            for what, now, was in (
                ("a plain request", self.request, then.request),
                ("a streamed token", self.token, then.token),
            )
            if now > times * was
        ]
        return "; ".join(found) or None


MEASURED = Share(request=0.085, token=0.31)
"""What the shares were when they were last set. Set them anew when the path has become cheaper."""
TIMES = 2.0
"""A share may be so many times as large: on a busy machine processor time itself varies by half."""


def too_dear(share: Share) -> str | None:
    """What has become dear, in words; None when nothing has."""
    return share.beyond(MEASURED, TIMES, "processor time")


def shares(variants: Mapping[str, Mapping[str, str]], rounds: int = ROUNDS) -> dict[str, Share]:
    """Measure gateways with these settings, by name, and the yardstick beside them."""
    with tempfile.TemporaryDirectory(prefix="guard-") as name, ExitStack() as stack:
        folder, port = Path(name), free_port()
        source = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "benchmarks.overhead.guard_source", str(port)]
        stack.enter_context(started(command, source, folder / "source.log"))
        who = {title: ours(title, source, folder, TGI, **more) for title, more in variants.items()}
        who[""] = yardstick(source)
        weighed = {
            title: stack.enter_context(
                started(one.command, f"http://{one.address}{one.health}", folder / f"{one.port}.log", one.env)
            )
            for title, one in who.items()
        }
        found: dict[str, list[tuple[float, float]]] = {title: [] for title in who}
        for number in range(rounds + 1):
            for title in who if number % 2 else reversed(who):
                few = title == "" or number == 0
                costs = _costs(who[title], weighed[title], requests=160 if few else 1200)
                if number:  # the first one is to warm up
                    found[title].append(costs)
    return {title: _share(found[title], found[""]) for title in variants}


def _share(mine: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]]) -> Share:
    pairs = list(zip(mine, theirs, strict=True))
    return Share(median(a[0] / b[0] for a, b in pairs), median(a[1] / b[1] for a, b in pairs))


def _costs(one: Contender, weighed: Weighed, *, requests: int) -> tuple[float, float]:
    """Seconds of processor time, of a plain request and of a streamed token. Processor time is counted in
    hundredths of a second: what is cheap is asked more often."""
    before = weighed.cpu_s()
    asyncio.run(ask(one.port, one.way.plain(TOKENS), CONNECTIONS, requests // CONNECTIONS))
    between = weighed.cpu_s()
    asyncio.run(ask(one.port, one.way.stream(STREAM_TOKENS, RATE), STREAMS, 1))
    after = weighed.cpu_s()
    return (between - before) / requests, (after - between) / (STREAMS * STREAM_TOKENS)


async def ask(port: int, asked: Asked, connections: int, each: int) -> None:
    """Send so many requests over each of so many connections. Raises RuntimeError when one is refused."""
    body = asked.body.encode()
    head = f"POST {asked.path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    await asyncio.gather(*(_connection(port, request, each) for _ in range(connections)))


async def _connection(port: int, request: bytes, count: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for _ in range(count):
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"http/1.1 200"):
                raise RuntimeError(f"refused: {head.decode('latin-1')}")
            if b"transfer-encoding: chunked" in head:
                await reader.readuntil(b"\r\n0\r\n\r\n")
            else:
                await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
    finally:
        writer.close()


def main() -> int:
    share = shares({"gateway": {}})["gateway"]
    print(f"of what FastAPI and httpx take: {share.request:.3f} for a request, {share.token:.3f} for a token")
    print(f"at most: {TIMES * MEASURED.request:.3f} and {TIMES * MEASURED.token:.3f}")
    if why := too_dear(share):
        print(why, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
