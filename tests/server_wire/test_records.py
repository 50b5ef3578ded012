"""Every request leaves the same line in the log, and the same figures, whichever way it went."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import closing

from harness import Running, until
from server_wire.cases import CASES, REFUSED, ROUTES
from server_wire.conftest import Pair
from server_wire.raw import connected, told

_CHANGING = re.compile(r"^[0-9:]+ |\b(ms|request_id)=\S+")
_SAMPLE = re.compile(r"^(gateway_\w+?(?:_total|_count)(?:\{.*\})?) ([0-9.e+]+)$", re.MULTILINE)


def figures(running: Running) -> Counter[str]:
    """Counters, and how often something was observed; the event loop's own lag is a matter of time."""
    found = _SAMPLE.findall(running.get("/metrics").text)
    return Counter({name: round(float(value)) for name, value in found if "loop_lag" not in name})


def lines(log: str) -> list[str]:
    """What was asked here. The line of one's own look at the figures may come after its answer."""
    told = (line for line in log.splitlines() if "gateway.access" in line and "route=/metrics" not in line)
    return sorted(_CHANGING.sub("", line) for line in told)


def asked(running: Running) -> tuple[list[str], Counter[str]]:
    before, begin = figures(running), len(running.output)
    names = [*ROUTES, *REFUSED, "query on a hot path", "encoded path", "HEAD on a hot path", "two hot"]
    for case in (CASES[name] for name in names):
        with closing(connected(running.url)) as client:
            client.sendall(case.sent)
            told(client, len(case.statuses), case.headless)
    # Each case, and behind it the request that shows that its connection stays.
    expected = sum(len(CASES[name].statuses) + 1 for name in names)
    until(lambda: len(lines(running.output[begin:])) >= expected, "the lines of all requests")
    written = lines(running.output[begin:])
    return written, figures(running) - before


def test_log_and_figures_are_those_of_the_ordinary_way(pair: Pair) -> None:
    (served_log, served), (ordinary_log, ordinary) = asked(pair.served), asked(pair.ordinary)
    assert served_log == ordinary_log
    assert served == ordinary
    assert sum(count for name, count in served.items() if name.startswith("gateway_requests_total")) > 20
