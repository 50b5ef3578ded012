"""What engines say about themselves, looked up every few seconds and never in a request's way."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import httpx

from gateway.errors import GatewayError
from gateway.metrics import Metrics
from gateway.upstream.bodies import within
from gateway.upstream.calls import Call
from gateway.upstream.exchange import fetch

EVERY_S: Final = 5.0
TIMEOUT_S: Final = 2.0
ASK_AGAIN: Final = 60
"""An engine that has no such page is asked again after this many rounds: another may have taken its place."""
_QUEUE: Final = (
    "tgi_queue_size",
    "vllm:num_requests_waiting",
    "sglang:num_queue_reqs",
    "llamacpp:requests_deferred",
)
_BATCH: Final = (
    "tgi_batch_current_size",
    "vllm:num_requests_running",
    "sglang:num_running_reqs",
    "llamacpp:requests_processing",
)


@dataclass(frozen=True, slots=True)
class Said:
    """Requests that wait inside an engine, and that it works on; None for what it does not say."""

    queue: float | None
    batch: float | None


def read(page: str) -> Said:
    """The two figures in an engine's page, whoever's it is; several series of one figure are added up."""
    sums: dict[str, float] = {}
    for line in page.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in _QUEUE or name in _BATCH:
            value = _value(line)
            if value is not None:
                sums[name] = sums.get(name, 0.0) + value
    return Said(_first(sums, _QUEUE), _first(sums, _BATCH))


def _first(sums: Mapping[str, float], names: tuple[str, ...]) -> float | None:
    return next((sums[name] for name in names if name in sums), None)


def _value(line: str) -> float | None:
    """The number behind name and labels; a time may stand behind it."""
    try:
        value = float(line.rpartition("}")[2].split()[0 if "}" in line else 1])
    except (ValueError, IndexError):
        return None
    return value if math.isfinite(value) else None


@asynccontextmanager
async def followed(
    metrics: Metrics,
    client: httpx.AsyncClient,
    ready: Callable[[], Mapping[str, str]],
    every_s: float = EVERY_S,
) -> AsyncIterator[None]:
    """Keep the engines' gauges for as long as the block runs. ``ready``: models that are in, and where."""
    task = asyncio.create_task(_Rounds(metrics, client, ready).run(every_s))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _Rounds:
    def __init__(
        self, metrics: Metrics, client: httpx.AsyncClient, ready: Callable[[], Mapping[str, str]]
    ) -> None:
        self._metrics = metrics
        self._client = client
        self._ready = ready
        self._without: dict[str, int] = {}
        self._shown: set[str] = set()

    async def run(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            ready = self._ready()
            await asyncio.gather(*(self._look(model, url) for model, url in ready.items()))
            for model in self._shown - ready.keys():
                self._show(model, Said(0.0, 0.0))

    async def _look(self, model: str, url: str) -> None:
        """One engine. What goes wrong is counted and nothing else: figures are not worth an alarm."""
        rounds = self._without.get(url, 0)
        if rounds:
            self._without[url] = rounds - 1
            return
        try:
            answer = await fetch(self._client, Call("GET", url, "/metrics"), within(TIMEOUT_S))
        except GatewayError:
            self._metrics.count("gateway_metrics_dropped_total", why="engine_silent")
            return
        said = read(answer.body.decode("utf-8", "replace")) if answer.status == httpx.codes.OK else None
        if said is None or said == Said(None, None):
            self._without[url] = ASK_AGAIN
        else:
            self._show(model, said)

    def _show(self, model: str, said: Said) -> None:
        self._shown.add(model)
        if said.queue is not None:
            self._metrics.gauge("gateway_engine_queue", said.queue, model=model)
        if said.batch is not None:
            self._metrics.gauge("gateway_engine_batch", said.batch, model=model)
