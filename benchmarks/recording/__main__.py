"""Processor time that the figures cost, per token and per request: ``python -m benchmarks.recording``.

Processor time, not wall time: a busy machine changes it little. "off" is the same loop without recording;
the flush to StatsD goes to a socket of this process, once for as many tokens as 50 streams make in a second.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import closing

from gateway.journey import Ending, FigureBook, Waited
from gateway.metrics import Metrics
from gateway.metrics_statsd import Listener, tell
from gateway.schemas import Completed

TOKENS, REQUESTS, ROUNDS, FLUSH_TOKENS = 100_000, 10_000, 5, 2_500
DONE = Completed("", "length", 100, 20, None)
WAITED = Waited(0.001, 0.0, 1.0, 1.02)
ENDING = Ending("qwen2", "none", "ok", "streaming", None)


def best_ns(work: Callable[[], object], times: int) -> float:
    """Of one piece of ``work``, which does ``times`` of them: the best of some rounds."""
    spent = []
    for _ in range(ROUNDS):
        begun = time.process_time_ns()
        work()
        spent.append(time.process_time_ns() - begun)
    return min(spent) / times


def tokens(metrics: Metrics | None, flush: Callable[[], object]) -> Callable[[], None]:
    """One stream, token for token."""
    if metrics is None:

        def nothing() -> None:
            for _ in range(TOKENS):
                pass

        return nothing
    journey = FigureBook(metrics).journey()
    journey.begun("qwen2", "none", WAITED, streamed=True)

    def work() -> None:
        for number in range(TOKENS):
            journey.token()
            if number % FLUSH_TOKENS == 0:
                flush()

    return work


def requests(metrics: Metrics, flush: Callable[[], object]) -> Callable[[], None]:
    """All that one request records beside its tokens."""
    book = FigureBook(metrics)

    def work() -> None:
        for number in range(REQUESTS):
            journey = book.journey()
            journey.begun("qwen2", "none", WAITED, streamed=True)
            journey.ended(DONE, 1.0)
            journey.closed(ENDING, WAITED)
            metrics.count("gateway_http_requests_total", route="generate", status="200")
            metrics.count("gateway_requests_total", model="qwen2", route="generate", status="2xx", arm="none")
            metrics.observe("gateway_total_seconds", 1.0, model="qwen2", route="generate", arm="none")
            if number % 500 == 0:
                flush()

    return work


def main() -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as heard:
        heard.bind(("127.0.0.1", 0))
        with closing(Listener(socket.AF_INET, heard.getsockname(), "gw")) as listener:
            told, plain = Metrics(keep_values=True), Metrics()
            off = best_ns(tokens(None, lambda: None), TOKENS)
            token = best_ns(tokens(plain, lambda: None), TOKENS) - off
            token_told = best_ns(tokens(told, lambda: tell(listener, told, "")), TOKENS) - off
            request = best_ns(requests(plain, lambda: None), REQUESTS)
            request_told = best_ns(requests(told, lambda: tell(listener, told, "")), REQUESTS)
            scrape = best_ns(told.exposition, 1)
    print(f"per token:   {token:6.0f} ns for Prometheus, {token_told:6.0f} ns with StatsD")
    print(f"per request: {request / 1000:6.1f} µs for Prometheus, {request_told / 1000:6.1f} µs with StatsD")
    print(f"per scrape:  {scrape / 1e6:6.2f} ms")


if __name__ == "__main__":
    main()
