"""TGI's own API when engines are away, busy, broken, or when a client leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from harness import Running, events_of, model, owned, start_echo, start_gateway, until

from gateway.answers import Answer, Receipt
from gateway.api import tgi
from gateway.schemas import Token

HELLO = {"inputs": "hello brave new world", "parameters": {"max_new_tokens": 6}}


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A slow engine, and a gateway in front of it; ``tight`` takes one request at a time."""
    folder = tmp_path_factory.mktemp("slow")
    engine = start_echo(folder, tokens_per_s=20)
    tight = model(engine.url, id="tight", limits={"max_concurrent": 1, "max_queue": 0})
    running = start_gateway(folder, {"models": [model(engine.url), tight]})
    yield engine, running
    running.stop()
    engine.stop()


async def test_full_queue_is_overload_with_a_time_to_come_back(slow: tuple[Running, Running]) -> None:
    _, running = slow
    one_at_a_time = {"x-gateway-model": "tight"}
    async with (
        httpx.AsyncClient(base_url=running.url, timeout=20, headers=one_at_a_time) as http,
        http.stream("POST", "/generate_stream", json={"inputs": "word " * 200}) as held,
    ):
        events = events_of(held)  # kept: without it, the connection would be closed
        await anext(events)
        refused = await http.post("/generate", json=HELLO)

    assert (refused.status_code, refused.json()["error_type"]) == (429, "overloaded")
    assert refused.json()["error"].startswith("Model is overloaded")


async def test_engine_that_breaks_off_ends_the_stream_with_one_error_event(gateway: Any, echo: Any) -> None:
    engine = echo(tokens_per_s=50, fail="mid-stream", fail_after_tokens=3)
    running = gateway({"models": [model(engine.url)]})
    async with httpx.AsyncClient(base_url=running.url, timeout=20) as http:
        body = {"inputs": "a b c d e f g h"}
        async with http.stream("POST", "/generate_stream", json=body) as response:
            events = [event async for event in events_of(response)]

    *tokens, last = [event.data for event in events if event.name == "message"]
    assert [token["index"] for token in tokens] == [1, 2, 3]
    assert list(last) == ["error", "error_type"]
    assert last["error_type"] == "incomplete_generation"


async def test_health_of_an_engine_that_is_gone_is_tgis_503(gateway: Any, echo: Any) -> None:
    engine = echo()
    probes = {"interval_s": 0.2, "fails": 1}
    running = gateway({"models": [model(engine.url, probes=probes)]})
    engine.stop()

    until(lambda: running.get("/models/echo/health").status_code == 503, "the health to be bad")

    error = running.get("/models/echo/health").json()
    assert error["error_type"] == "healthcheck"
    assert error["error"].startswith("unhealthy")


async def test_engine_that_breaks_off_a_plain_answer_is_tgis_424(gateway: Any, echo: Any) -> None:
    engine = echo(fail="mid-stream", fail_after_tokens=1)
    running = gateway({"models": [model(engine.url)]})
    async with httpx.AsyncClient(base_url=running.url, timeout=20) as http:
        response = await http.post("/generate", json={"inputs": "a b c"})

    assert (response.status_code, response.json()["error_type"]) == (424, "incomplete_generation")


# ---------------------------------------------------------------- models that come in


async def test_stream_says_as_comments_that_its_model_comes_in(gateway: Any) -> None:
    running = gateway({"models": [owned("sleeper", load_s=1)]}, heartbeat_s=0.2)
    async with (
        httpx.AsyncClient(base_url=running.url, timeout=30) as http,
        http.stream("POST", "/generate_stream", json=HELLO) as response,
    ):
        events = [event async for event in events_of(response)]

    comments = [event.data for event in events if event.name == ":"]
    assert len(comments) >= 3
    assert "sleeper" in comments[0]
    assert events[-1].data["generated_text"].startswith("hello brave new world")


async def test_start_that_fails_under_a_stream_is_one_error_event(gateway: Any) -> None:
    running = gateway({"models": [owned("sleeper", load_s=0.2, fail="load")]})
    async with httpx.AsyncClient(base_url=running.url, timeout=30) as http:
        async with http.stream("POST", "/", json={**HELLO, "stream": True}) as response:
            *_, last = [event async for event in events_of(response)]
        plain = await http.post("/", json=HELLO)
        sick = await http.get("/models/sleeper/health")

    assert last.name == "message"
    assert last.data["error_type"] == "model_unavailable"
    assert (plain.status_code, plain.json()["error_type"]) == (503, "model_unavailable")
    assert plain.headers["retry-after"]
    assert (sick.status_code, sick.json()["error_type"]) == (503, "healthcheck")


async def test_model_that_is_away_is_described_without_it_and_comes_in_for_its_tokens(gateway: Any) -> None:
    limits = {"max_input_tokens": 77, "max_total_tokens": 99, "max_concurrent": 3, "max_queue": 4}
    running = gateway({"models": [{**owned("sleeper"), "limits": limits, "name": "Sleeper-1B"}]})
    async with httpx.AsyncClient(base_url=running.url, timeout=30) as http:
        away = (await http.get("/info")).json()
        healthy = await http.get("/models/sleeper/health")
        state = (await http.get("/v1/models/sleeper")).json()["state"]
        tokens = (await http.post("/tokenize", json={"inputs": "hello world"})).json()
        there = (await http.get("/info")).json()

    assert (away["model_id"], away["max_input_tokens"], away["max_total_tokens"]) == ("Sleeper-1B", 77, 99)
    assert list(there) == list(away)
    assert (healthy.status_code, healthy.content) == (200, b"")
    assert state == "stopped"
    assert [(token["text"], token["start"], token["stop"]) for token in tokens] == [
        ("hello", 0, 5),
        (" world", 5, 11),
    ]
    assert (there["model_id"], there["max_input_tokens"]) == ("sleeper", 1024)
    assert there["max_concurrent_requests"] == 7


# ---------------------------------------------------------------- clients that leave


@pytest.mark.parametrize(
    ("path", "parameters"),
    [("/generate_stream", {}), ("/generate", {}), ("/generate", {"details": True}), ("/", {"details": True})],
)
async def test_client_that_leaves_stops_the_engine(
    slow: tuple[Running, Running], path: str, parameters: dict[str, Any]
) -> None:
    engine, running = slow
    async with httpx.AsyncClient(base_url=running.url, timeout=20) as http:
        body = {"inputs": "word " * 200, "parameters": parameters}
        asking = asyncio.create_task(http.post(path, json=body))
        await asyncio.to_thread(until, lambda: engine.metric("tgi_batch_current_size") == 1, "the engine")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await asyncio.to_thread(until, lambda: engine.metric("tgi_batch_current_size") == 0, "the end", 3)
    until(lambda: running.metric("gateway_generations_open") == 0, "the place to be free")


# ---------------------------------------------------------------- engines that say less


class Silent:
    """A generation of an engine that numbers no tokens, and tells of the last one only afterwards."""

    closed = False

    async def raw_events(self) -> AsyncGenerator[Token | Answer]:
        yield Token("Hi", None, None, special=False)
        receipt = Receipt(0, 0, 0, 0, 0, 0)
        yield Answer("m", "Hi", "eos_token", None, 1, None, receipt)

    async def aclose(self) -> None:
        self.closed = True


async def test_engine_that_says_less_still_gives_whole_events() -> None:
    generation = Silent()

    events = [event async for event in tgi._events(generation, details=True)]  # type: ignore[arg-type]

    first, last = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert first["token"] == {"id": 0, "text": "Hi", "logprob": None, "special": False}
    assert first["generated_text"] is None
    assert last["index"] == 2
    assert last["token"] == {"id": 0, "text": "", "logprob": None, "special": True}
    assert last["generated_text"] == "Hi"
    assert last["details"] == {
        "finish_reason": "eos_token",
        "generated_tokens": 1,
        "seed": None,
        "input_length": None,
    }
    assert generation.closed


async def test_grammar_that_the_engine_refuses_is_named(echo: Any, gateway: Any) -> None:
    running = gateway({"models": [model(echo().url)]})
    grammar = {"type": "regex", "value": "a"}
    async with httpx.AsyncClient(base_url=running.url, timeout=20) as http:
        asked = {"inputs": "hello", "parameters": {"grammar": grammar}}
        refused = await http.post("/v1/generate", json=asked)

    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "parameters.grammar")


async def test_load_takes_no_body_but_an_empty_one(gateway: Any) -> None:
    running = gateway({"models": [owned("sleeper")]})
    async with httpx.AsyncClient(base_url=running.url, timeout=20) as http:
        path = "/v1/models/sleeper/load"
        accepted = [await http.post(path), await http.post(path, json={})]
        refused = await http.post(path, json={"wait": True})

    assert [answer.status_code for answer in accepted] == [202, 202]
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "wait")
