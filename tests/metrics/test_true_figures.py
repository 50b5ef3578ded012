"""A known load through a real gateway: StatsD and Prometheus say what the clients counted."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from harness import Running, events_of, model, start_echo, start_gateway, until
from metrics.statsd_listener import DATAGRAM_BYTES, StatsdListener

from gateway.api.labels import GENERATIONS, route_label
from gateway.cli import load_registry
from gateway.main import create_app
from gateway.settings import Settings

FLUSH_S = 0.2
PLAIN, STREAMED, BROKEN, WRONG = 25, 12, 4, 3


@dataclass(slots=True)
class Seen:
    """What clients counted."""

    statuses: Counter[str] = field(default_factory=Counter)
    tokens_in: int = 0
    tokens_out: int = 0
    gaps: int = 0
    receipts: list[dict[str, float]] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)

    def whole(self, body: dict[str, Any], ms: float) -> None:
        self.tokens_in += body["usage"]["prompt_tokens"]
        self.tokens_out += body["usage"]["completion_tokens"]
        self.receipts.append(body["receipt"])
        self.ms.append(ms)


@dataclass(slots=True)
class Place:
    gateway: Running
    engines: dict[str, Running]
    listener: StatsdListener

    def samples(self, name: str, **labels: str) -> float:
        """The sum of a figure of Prometheus over all series with these labels."""
        wanted = {f'{label}="{value}"' for label, value in labels.items()}
        total = 0.0
        for line in self.gateway.get("/metrics").text.splitlines():
            found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if found and wanted <= set((found[1] or "").split(",")):
                total += float(found[2])
        return total


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder, listener = tmp_path_factory.mktemp("figures"), StatsdListener()
    engines = {
        "good": start_echo(folder, model_id="good", tokens_per_s=200, first_token_s=0.02),
        "broken": start_echo(folder, model_id="broken", fail="mid-stream", fail_after_tokens=1),
        "slow": start_echo(folder, model_id="slow", tokens_per_s=10),
    }
    records = [model(engine.url, id=name, family="chatml") for name, engine in engines.items()]
    records[2]["limits"] = {"max_concurrent": 1, "max_queue": 1}
    gateway = start_gateway(
        folder,
        {"models": records},
        statsd_host="127.0.0.1",
        statsd_port=listener.port,
        statsd_interval_s=FLUSH_S,
        statsd_tags="host=lane",
    )
    yield Place(gateway, engines, listener)
    for running in (gateway, *engines.values()):
        running.stop()
    listener.leave()


def _body(name: str, words: int, tokens: int, **more: Any) -> dict[str, Any]:
    text = " ".join(f"w{number}" for number in range(words))
    return {"model_id": name, "inputs": text, "parameters": {"max_new_tokens": tokens}, **more}


async def _plain(client: httpx.AsyncClient, seen: Seen, name: str, number: int) -> None:
    begun = time.perf_counter()
    answer = await client.post("/v1/generate", json=_body(name, 3 + number % 5, 2 + number % 7))
    seen.statuses[f"{answer.status_code // 100}xx"] += 1
    if answer.status_code == httpx.codes.OK:
        seen.whole(answer.json(), 1000 * (time.perf_counter() - begun))


async def _streamed(client: httpx.AsyncClient, seen: Seen, name: str, number: int) -> None:
    begun, tokens, status = time.perf_counter(), 0, "2xx"
    body = _body(name, 4, 5 + number % 6, stream=True)
    async with client.stream("POST", "/v1/generate", json=body) as answer:
        async for event in events_of(answer):
            tokens += event.name == "token"
            if event.name == "error":
                status = f"{event.data['error']['status'] // 100}xx"
            elif event.name == "done":
                seen.whole(event.data, 1000 * (time.perf_counter() - begun))
    seen.statuses[status] += 1
    seen.gaps += max(0, tokens - 1)


async def _load(url: str, good: Seen, broken: Seen, wrong: Seen) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await asyncio.gather(
            *(_plain(client, good, "good", number) for number in range(PLAIN)),
            *(_streamed(client, good, "good", number) for number in range(STREAMED)),
            *(_plain(client, broken, "broken", number) for number in range(BROKEN)),
        )
        for _ in range(WRONG):
            answer = await client.post("/v1/generate", json={"inputs": "a", "parameters": {"top_p": 7}})
            wrong.statuses[f"{answer.status_code // 100}xx"] += 1


@pytest.fixture(scope="module")
def counted(place: Place) -> tuple[Seen, Seen, Seen]:
    good, broken, wrong = Seen(), Seen(), Seen()
    asyncio.run(_load(place.gateway.url, good, broken, wrong))
    everything = PLAIN + STREAMED + BROKEN + WRONG
    place.listener.until(
        lambda told: told.count("gw.requests") >= everything and told.values("gw.total"), "all requests"
    )
    return good, broken, wrong


def test_requests_and_errors_are_what_the_clients_counted(
    place: Place, counted: tuple[Seen, Seen, Seen]
) -> None:
    good, broken, wrong = counted
    told = place.listener.hear()
    for name, seen in (("good", good), ("broken", broken), ("none", wrong)):
        assert sum(seen.statuses.values()) > 0
        for status, requests in seen.statuses.items():
            labels = {"model": name, "route": "generate", "status": status, "arm": "none"}
            assert told.count("gw.requests", **labels) == requests
            assert place.samples("gateway_requests_total", **labels) == requests
    assert good.statuses == {"2xx": PLAIN + STREAMED}
    assert broken.statuses == {"5xx": BROKEN}
    assert told.count("gw.upstream_errors", model="broken") == BROKEN
    assert told.count("gw.upstream_errors", model="good") == 0


def test_tokens_are_what_the_clients_counted(place: Place, counted: tuple[Seen, Seen, Seen]) -> None:
    good, told = counted[0], place.listener.hear()
    assert told.count("gw.tokens_in", model="good") == good.tokens_in > 0
    assert told.count("gw.tokens_out", model="good") == good.tokens_out > 0
    assert place.samples("gateway_tokens_in_total", model="good") == good.tokens_in
    assert place.samples("gateway_tokens_out_total", model="good") == good.tokens_out
    assert len(told.values("gw.between_tokens", model="good")) == good.gaps
    assert place.samples("gateway_between_tokens_seconds_count", model="good") == good.gaps
    assert sum(told.values("gw.prompt_tokens", model="good")) == pytest.approx(good.tokens_in, rel=0.01)


def test_times_are_those_of_the_receipts_and_between_both_ends(
    place: Place, counted: tuple[Seen, Seen, Seen]
) -> None:
    """Within two per cent, as near values are told as one."""
    good, told = counted[0], place.listener.hear()
    asked = PLAIN + STREAMED
    for name, part in (("first_token", "prefill_ms"), ("queue", "queue_ms")):
        found, wanted = told.values(f"gw.{name}", model="good"), sorted(r[part] for r in good.receipts)
        assert len(found) == asked
        assert found == pytest.approx(wanted, rel=0.02, abs=0.05)
    total = told.values("gw.total", model="good")
    assert len(total) == asked == place.samples("gateway_total_seconds_count", model="good")
    for least, found, most in zip(
        sorted(r["total_ms"] for r in good.receipts), total, sorted(good.ms), strict=True
    ):
        assert 0.98 * least - 0.05 <= found <= 1.02 * most + 0.05


def test_gauges_and_tags_are_on_every_flush(place: Place, counted: tuple[Seen, Seen, Seen]) -> None:
    told = place.listener.hear()
    assert (
        told.gauges["gw.model_state", frozenset({("model", "good"), ("state", "ready"), ("host", "lane")})]
        == 1
    )
    names = {name for name, _ in told.gauges}
    assert {"gw.in_flight", "gw.queued", "gw.open_connections", "gw.model_memory_bytes"} <= names
    assert told.values("gw.loop_lag")
    assert all(len(datagram) < DATAGRAM_BYTES for datagram in place.listener.datagrams)
    assert all(b"host=lane" in line for d in place.listener.datagrams for line in d.split(b"\n"))


async def test_tokens_of_an_answer_are_told_while_it_runs(place: Place) -> None:
    before = place.listener.hear().count("gw.tokens_out", model="slow")
    async with httpx.AsyncClient(base_url=place.gateway.url, timeout=60) as client:
        body = _body("slow", 300, 400, stream=True)
        async with client.stream("POST", "/v1/generate", json=body) as answer:
            events, seen = events_of(answer), 0
            while seen < 5:
                seen += (await anext(events)).name == "token"
            await asyncio.to_thread(
                place.listener.until,
                lambda told: told.count("gw.tokens_out", model="slow") >= before + seen,
                "tokens of a running answer",
            )
            assert place.listener.told.gauges[
                "gw.in_flight", frozenset({("model", "slow"), ("host", "lane")})
            ]
    assert place.samples("gateway_generations_total", model="slow", outcome="ok") == 0


async def test_who_leaves_is_counted_where_it_was_and_who_is_refused_with_the_reason(place: Place) -> None:
    def told(name: str, **labels: str) -> int:
        return place.listener.hear().count(f"gw.{name}", model="slow", **labels)

    streaming, left = told("cancelled", where="streaming"), told("requests", status="left")
    async with httpx.AsyncClient(base_url=place.gateway.url, timeout=60) as client:
        body = _body("slow", 300, 400, stream=True)
        async with client.stream("POST", "/v1/generate", json=body) as answer:
            events = events_of(answer)  # held: one that is let go of closes the connection
            await anext(events)
            waiting = asyncio.create_task(client.post("/v1/generate", json=_body("slow", 3, 5)))
            await asyncio.to_thread(
                until, lambda: place.samples("gateway_queued", model="slow") == 1, "one to wait"
            )
            refused = await client.post("/v1/generate", json=_body("slow", 3, 5))
            assert refused.status_code == httpx.codes.TOO_MANY_REQUESTS
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await asyncio.to_thread(
                until, lambda: told("cancelled", where="queued") == 1, "the one in the queue"
            )
    await asyncio.to_thread(
        until, lambda: told("cancelled", where="streaming") == streaming + 1, "the one that was answered"
    )
    await asyncio.to_thread(until, lambda: told("requests", status="left") == left + 2, "both that left")
    assert told("rejected", why="queue_full") == 1
    assert told("requests", status="4xx") == 1
    assert place.samples("gateway_cancelled_total", model="slow", where="queued") == 1


def test_figures_that_nobody_heard_are_told_of_once_somebody_does(place: Place) -> None:
    place.listener.leave()
    until(lambda: place.samples("gateway_metrics_dropped_total", why="refused") > 0, "figures to be lost")
    begun = time.perf_counter()
    answer = httpx.post(f"{place.gateway.url}/v1/generate", json=_body("good", 3, 3), timeout=20)
    assert answer.status_code == httpx.codes.OK
    assert time.perf_counter() - begun < 5
    place.listener.come_back()
    place.listener.until(lambda told: told.count("gw.metrics_dropped", why="refused") > 0, "word of the loss")
    until(
        lambda: (
            place.listener.hear().count("gw.metrics_dropped")
            == place.samples("gateway_metrics_dropped_total", why="refused")
        ),
        "all of it",
    )
    assert "Traceback" not in place.gateway.output


def test_the_route_of_every_generation_is_one_that_is_counted() -> None:
    """What asks for a generation and is not in the list would be in no figure."""
    registry = load_registry(Path(__file__).parents[2] / "models" / "local.yaml")
    app = create_app(Settings(), registry)
    posts = [r.path for r in app.routes if isinstance(r, APIRoute) and "POST" in (r.methods or ())]
    labels = {route_label("POST", path) for path in posts}
    others = {"render", "models_load", "models_unload", "messages_count_tokens", "tgi_tokenize"}
    others |= {"tgi_chat_tokenize", "embeddings", "responses", "moderations", "images", "audio"}
    others |= {"experiments_reset"}
    assert labels - others == GENERATIONS
