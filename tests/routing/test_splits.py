"""Splits over real sockets: who answers whom, in every dialect, and what is told about it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest
from dialects import PATHS, ask, streamed
from harness import Running

from gateway.aliases import arm_of_key

HALVES = {"a": 1.0, "b": 1.0}
KEY_OF_A = next(f"k-{n}-hush" for n in range(99) if arm_of_key("chat", f"k-{n}-hush", HALVES) == "a")
KEY_OF_B = next(f"k-{n}-hush" for n in range(99) if arm_of_key("chat", f"k-{n}-hush", HALVES) == "b")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", PATHS)
@pytest.mark.parametrize(("key", "arm"), [(KEY_OF_A, "a"), (KEY_OF_B, "b")])
async def test_a_session_stays_with_its_arm_in_every_dialect(
    client: httpx.AsyncClient, dialect: str, key: str, arm: str, stream: bool
) -> None:
    for _ in range(2):
        headers = {"x-gateway-session": key}
        response = await ask(client, dialect, "chat", stream=stream, headers=headers)
        assert response.status_code == 200
        told = {name: response.headers[f"x-gateway-{name}"] for name in ("model", "alias", "arm")}
        assert told == {"model": arm, "alias": "chat", "arm": arm}
        assert key not in response.text


@pytest.mark.parametrize(
    ("dialect", "more"),
    [
        ("native", {"session": KEY_OF_B}),
        ("chat", {"user": KEY_OF_B}),
        ("chat", {"metadata": {"session_id": KEY_OF_B}, "user": KEY_OF_A}),
        ("text", {"user": KEY_OF_B}),
        ("messages", {"metadata": {"user_id": KEY_OF_B}}),
    ],
)
async def test_each_dialect_has_its_own_place_for_the_key(
    client: httpx.AsyncClient, dialect: str, more: dict[str, Any]
) -> None:
    response = await ask(client, dialect, "chat", **more)

    assert response.headers["x-gateway-arm"] == "b"


async def test_what_is_said_to_the_gateway_by_name_comes_first(client: httpx.AsyncClient) -> None:
    headers = {"x-gateway-session": KEY_OF_A}

    over_header = await ask(client, "native", "chat", headers=headers, session=KEY_OF_B)
    over_dialect = await ask(client, "chat", "chat", headers=headers, metadata={"session_id": KEY_OF_B})

    assert over_header.headers["x-gateway-arm"] == "b"
    assert over_dialect.headers["x-gateway-arm"] == "a"


async def test_sticky_by_user_looks_at_the_user_first(client: httpx.AsyncClient) -> None:
    keys = {arm_of_key("by-user", f"u{number}", HALVES): f"u{number}" for number in range(20)}

    for arm, other in (("a", "b"), ("b", "a")):
        headers = {"x-gateway-session": keys[other]}
        response = await ask(client, "chat", "by-user", headers=headers, user=keys[arm])
        assert response.headers["x-gateway-arm"] == arm


@pytest.mark.parametrize("odd", [{"user": 7, "metadata": "x"}, {"user": None, "metadata": {"session_id": 7}}])
async def test_what_is_no_text_is_no_key(client: httpx.AsyncClient, odd: dict[str, Any]) -> None:
    assert (await ask(client, "chat", "chat", **odd)).status_code == 200


async def test_without_a_key_arms_are_drawn_by_weight(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(ask(client, "native", "anyone", session="same") for _ in range(80)))

    arms = Counter(answer.json()["arm"] for answer in answers)
    # Outside of these once in some millions of runs.
    assert 16 <= arms["a"] <= 64


async def test_answer_and_streams_end_name_alias_and_arm(client: httpx.AsyncClient) -> None:
    whole = (await ask(client, "native", "chat", session=KEY_OF_B)).json()
    assert (whole["model_id"], whole["alias"], whole["arm"]) == ("b", "chat", "b")

    for dialect, last in (("native", "done"), ("messages", "message_delta"), ("chat", "message")):
        headers = {"x-gateway-session": KEY_OF_B}
        sent = {"native": {"model_id": "chat", "inputs": "x"}}.get(
            dialect, {"model": "chat", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4}
        )
        events = await streamed(client, PATHS[dialect], sent, headers)
        end = [event.data for event in events if event.name == last][-1]
        assert (end["alias"], end["arm"]) == ("chat", "b")


async def test_openai_model_is_the_one_that_answered(client: httpx.AsyncClient) -> None:
    answer = (await ask(client, "chat", "chat", user=KEY_OF_B, n=2)).json()

    assert (answer["model"], answer["arm"]) == ("b", "b")
    assert [sorted(choice) for choice in answer["choices"]] == [
        ["finish_reason", "index", "logprobs", "message"]
    ] * 2


async def test_request_without_a_split_has_no_arm(client: httpx.AsyncClient) -> None:
    for name in ("a", "plain"):
        response = await ask(client, "native", name, session=KEY_OF_B)
        assert {"alias", "arm"}.isdisjoint(response.json())
        assert "x-gateway-arm" not in response.headers


async def test_keys_are_in_no_log_and_no_metric(gateway: Running, client: httpx.AsyncClient) -> None:
    await ask(client, "native", "chat", session=KEY_OF_A)
    await ask(client, "native", "chat", session=KEY_OF_A, inputs="")  # an error

    assert "hush" not in gateway.output
    assert "hush" not in gateway.get("/metrics").text
    assert "hush" not in gateway.get("/v1/experiments/chat").text


async def test_render_and_token_routes_look_at_the_key_too(client: httpx.AsyncClient) -> None:
    rendered = await client.post("/v1/render", json={"model_id": "chat", "inputs": "x", "session": KEY_OF_B})
    info = await client.get("/models/chat/info", headers={"x-gateway-session": KEY_OF_B})

    assert rendered.json()["model_id"] == "b"
    assert info.headers["x-gateway-model"] == "b"


# ---------------------------------------------------------------- models and experiments


async def test_list_of_models_shows_what_aliases_mean(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()

    rows = {row["id"]: row for row in listed["data"]}
    assert {"a", "b", "chat", "anyone"} <= set(rows)
    assert "guarded" not in rows
    assert (rows["chat"]["object"], rows["chat"]["state"]) == ("model", "ready")
    assert rows["chat"]["split"] == {"a": 1, "b": 1}
    assert rows["a"]["aliases"] == ["plain"]
    assert listed["aliases"]["guarded"] == {"to": "away", "fallback": ["broken", "b"]}
    assert listed["aliases"]["plain"] == {"to": "a", "fallback": []}
    assert (await client.get("/v1/models/chat")).json()["sticky"] == "session"


async def test_a_split_cannot_be_loaded(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/models/chat/load")

    assert response.status_code == 422
    assert response.json()["error"]["hint"] == "Name one: a, b."


async def test_experiment_compares_the_arms(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/experiments/chat/reset")).status_code == 200
    for key in [KEY_OF_A] * 8 + [KEY_OF_B] * 2:
        await ask(client, "native", "chat", session=key)
    await ask(client, "native", "a")

    found = (await client.get("/v1/experiments/chat")).json()

    arms = {arm["arm"]: arm for arm in found["arms"]}
    assert (arms["a"]["requests"], arms["b"]["requests"]) == (8, 2)
    assert (arms["a"]["share"], arms["a"]["share_wanted"]) == (0.8, 0.5)
    assert (arms["a"]["answered"], arms["a"]["errors"], arms["a"]["cancelled"]) == (8, 0, 0)
    for figure in ("first_token_ms", "total_ms", "tokens_per_second"):
        median = arms["a"][figure]["p50"]
        assert median["low"] <= median["value"] <= median["high"]
        assert arms["a"][figure]["p99"]["high"] is None
        assert arms["b"][figure]["p50"]["high"] is None
    assert found["notes"][0].startswith("Too little data for a: 8 warm answers, ")
    assert "p50 needs 6" not in found["notes"][0]
    assert "p50 needs 6" in found["notes"][1]
    assert arms["a"]["cold"]["requests"] == arms["a"]["switching"]["loads"] == 0


async def test_every_split_is_listed(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/experiments")).json()

    assert [row["alias"] for row in listed["data"]] == ["anyone", "by-user", "chat", "half"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plain", "`plain` always means a"),
        ("a", "`a` always means a"),
        ("nobody", "There is no alias `nobody`"),
    ],
)
async def test_what_is_no_split_is_no_experiment(client: httpx.AsyncClient, name: str, said: str) -> None:
    for response in (
        await client.get(f"/v1/experiments/{name}"),
        await client.post(f"/v1/experiments/{name}/reset"),
    ):
        error = response.json()["error"]
        assert response.status_code == 404
        assert error["message"].startswith(said)
        assert error["hint"] == "Split aliases are: anyone, by-user, chat, half."


async def test_errors_and_leaving_are_the_arms(gateway: Running, client: httpx.AsyncClient) -> None:
    await client.post("/v1/experiments/half/reset")
    sent = {"model_id": "half", "inputs": "x", "fallback": []}
    answers = [await client.post("/v1/generate", json={**sent, "session": str(n)}) for n in range(10)]

    arms = {arm["arm"]: arm for arm in gateway.get("/v1/experiments/half").json()["arms"]}
    failed = [answer for answer in answers if answer.status_code == 503]
    assert failed
    assert arms["away"]["errors_by_type"] == {"model_unavailable": len(failed)}
    assert (arms["b"]["errors"], arms["b"]["answered"]) == (0, 10 - len(failed))
