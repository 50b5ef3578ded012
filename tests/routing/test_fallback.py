"""Fallback over real sockets: when, to whom, and what is told about it; and when not."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from dialects import PATHS, ask, streamed
from harness import Running, events_of, until


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", PATHS)
async def test_alias_falls_back_and_the_headers_say_so(
    client: httpx.AsyncClient, dialect: str, stream: bool
) -> None:
    """``away`` cannot be reached and ``broken`` fails before its first token; then comes b."""
    response = await ask(client, dialect, "guarded", stream=stream)

    assert response.status_code == 200
    told = {name: response.headers[f"x-gateway-{name}"] for name in ("model", "fallback-from")}
    assert told == {"model": "b", "fallback-from": "away"}
    assert response.headers["x-gateway-fallback-reason"] == "model_unavailable"


@pytest.mark.parametrize("dialect", PATHS)
async def test_header_names_a_fallback_in_every_dialect(client: httpx.AsyncClient, dialect: str) -> None:
    response = await ask(client, dialect, "broken", headers={"x-gateway-fallback": "away, a"})

    assert response.headers["x-gateway-model"] == "a"
    assert response.headers["x-gateway-fallback-reason"] == "model_unavailable"


async def test_native_answer_says_who_and_why(gateway: Running, client: httpx.AsyncClient) -> None:
    answer = (await ask(client, "native", "away", fallback=["a"])).json()

    assert (answer["model_id"], answer["fallback_from"]) == ("a", "away")
    assert answer["fallback_reason"] == "model_unavailable"
    assert "a answers instead of away" in gateway.output


async def test_every_step_is_counted(gateway: Running, client: httpx.AsyncClient) -> None:
    def counted() -> list[float]:
        text = gateway.get("/metrics").text.splitlines()
        rows = ('model="away",to="broken"', 'model="broken",to="b"')
        name = "gateway_fallbacks_total"
        found = [[line for line in text if line.startswith(f"{name}{{{row}}}")] for row in rows]
        return [float(lines[0].rsplit(" ", 1)[1]) if lines else 0.0 for lines in found]

    before = counted()
    await ask(client, "native", "guarded")

    assert [after - was for after, was in zip(counted(), before, strict=True)] == [1, 1]


@pytest.mark.parametrize("off", [{"fallback": []}, {}], ids=["field", "header"])
async def test_nobody_answers_instead_unless_asked(client: httpx.AsyncClient, off: dict[str, Any]) -> None:
    headers = {} if off else {"x-gateway-fallback": "none"}

    assert (await ask(client, "native", "guarded", headers=headers, **off)).status_code == 503
    assert (await ask(client, "native", "away")).status_code == 503


async def test_when_nobody_can_the_first_reason_is_told(client: httpx.AsyncClient) -> None:
    response = await ask(client, "native", "hopeless")

    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (503, "model_unavailable")
    assert error["message"].startswith("away does not answer")
    assert error["hint"].startswith("Nor could broken answer instead: ")


async def test_bad_request_is_bad_everywhere(client: httpx.AsyncClient) -> None:
    wrong = {"temperature": -1}

    for name in ("a", "guarded"):
        response = await ask(client, "native", name, fallback=["b"], parameters=wrong)
        assert (response.status_code, response.json()["error"]["field"]) == (422, "parameters.temperature")


async def test_engines_refusal_of_the_request_is_told(client: httpx.AsyncClient) -> None:
    """The echo engine takes 1024 tokens of input: so it is with every model behind it."""
    response = await ask(client, "native", "a", inputs="word " * 3000, fallback=["b"], scenario="raw")

    assert response.status_code == 422


@pytest.mark.parametrize(
    ("names", "status", "said"),
    [
        (["nobody"], 404, "There is no model `nobody` to fall back to."),
        (["chat"], 422, "The fallback `chat` is split over several models."),
    ],
)
async def test_impossible_fallback_is_refused_at_once(
    client: httpx.AsyncClient, names: list[str], status: int, said: str
) -> None:
    for response in (
        await ask(client, "native", "a", fallback=names),
        await ask(client, "native", "a", headers={"x-gateway-fallback": names[0]}),
    ):
        error = response.json()["error"]
        assert (response.status_code, error["message"], error["field"]) == (status, said, "fallback")


async def test_too_many_fallbacks_are_refused(client: httpx.AsyncClient) -> None:
    assert (await ask(client, "native", "a", fallback=["b"] * 9)).status_code == 422
    assert (await ask(client, "tgi", "a", headers={"x-gateway-fallback": "b," * 9})).status_code == 422


async def test_nobody_answers_instead_after_the_first_token(client: httpx.AsyncClient) -> None:
    sent = {"inputs": "one two three four five six", "fallback": ["a"]}

    events = await streamed(client, "/v1/generate", {"model_id": "midway", **sent})
    whole = await client.post("/v1/generate", json={"model_id": "midway-too", **sent})

    assert [event.name for event in events] == ["token", "token", "error"]
    assert (whole.status_code, whole.json()["error"]["type"]) == (504, "engine_timeout")


async def test_full_queue_falls_back(client: httpx.AsyncClient) -> None:
    slow = {
        "model_id": "full",
        "inputs": "x " * 400,
        "parameters": {"max_new_tokens": 900},
        "fallback": ["b"],
    }

    answers = await asyncio.gather(*(client.post("/v1/generate", json=slow) for _ in range(8)))

    origins = {(a.json()["model_id"], a.json().get("fallback_reason")) for a in answers}
    assert origins == {("full", None), ("b", "overloaded")}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_choices_of_several_models_say_which_is_whose(client: httpx.AsyncClient, stream: bool) -> None:
    """``full`` takes one request at a time; b has the other choices."""
    turns = [{"role": "user", "content": "one two three"}]
    sent = {"model": "full", "messages": turns, "max_tokens": 40, "n": 4}
    headers = {"x-gateway-fallback": "b"}

    if stream:
        chunks = [event.data for event in await streamed(client, PATHS["chat"], sent, headers)]
        whose = {choice["index"]: chunk["model"] for chunk in chunks for choice in chunk["choices"]}
        prints = {(chunk["model"], chunk["system_fingerprint"]) for chunk in chunks}
        assert len(prints) == 2
    else:
        answer = (await client.post(PATHS["chat"], json=sent, headers=headers)).json()
        whose = {c["index"]: c.get("model", answer["model"]) for c in answer["choices"]}

    assert sorted(whose.values()) == ["b", "b", "b", "full"]


async def test_arm_stays_the_one_that_was_drawn(gateway: Running, client: httpx.AsyncClient) -> None:
    await client.post("/v1/experiments/half/reset")

    answers = [(await ask(client, "native", "half", session=str(n))).json() for n in range(10)]

    assert {answer["model_id"] for answer in answers} == {"b"}
    moved = [answer for answer in answers if answer["arm"] == "away"]
    assert moved
    assert all(answer["fallback_from"] == "away" for answer in moved)
    arms = {arm["arm"]: arm for arm in gateway.get("/v1/experiments/half").json()["arms"]}
    assert (arms["away"]["fell_back"], arms["away"]["answered"]) == (len(moved), 0)
    assert arms["b"]["answered"] == 10 - len(moved)


# ---------------------------------------------------------------- in streams that are open already


async def until_it_can_be_tried(gateway: Running) -> None:
    """A failed model is not waited for by who may fall back: the stream would not open before it moved on."""
    await client_post(gateway, "/v1/models/unloadable/unload")
    await asyncio.to_thread(
        until,
        lambda: gateway.get("/v1/models/unloadable").json()["state"] == "stopped",
        "the model that cannot be loaded to be stopped",
    )


async def client_post(gateway: Running, path: str) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=10) as found:
        assert (await found.post(path)).status_code == 202


async def test_open_stream_says_that_another_answers(gateway: Running, client: httpx.AsyncClient) -> None:
    await until_it_can_be_tried(gateway)
    sent = {"model_id": "unloadable", "inputs": "one two", "fallback": ["b"], "events": True}

    events = await streamed(client, "/v1/generate", sent)

    names = [event.name for event in events]
    at = names.index("fallback")
    assert "loading" in names[:at]
    assert "token" in names[at:]
    assert names[-1] == "done"
    why = {"model_id": "b", "fallback_from": "unloadable", "fallback_reason": "model_unavailable"}
    assert events[at].data == why
    assert events[at - 1].data == "b answers instead of unloadable (model_unavailable)"
    assert why.items() <= events[-1].data.items()
    receipt = events[-1].data["receipt"]
    assert receipt["queue_ms"] > 100
    assert receipt["total_ms"] == pytest.approx(sum(receipt.values()) - receipt["total_ms"], abs=0.01)


@pytest.mark.parametrize("dialect", ["chat", "messages", "tgi"])
async def test_other_dialects_streams_name_who_really_answers(
    gateway: Running, client: httpx.AsyncClient, dialect: str
) -> None:
    await until_it_can_be_tried(gateway)
    headers = {"x-gateway-fallback": "b", "x-gateway-model": "unloadable"}
    sent: dict[str, Any] = {"model": "unloadable", "messages": [{"role": "user", "content": "x"}]}
    sent = {"inputs": "one two"} if dialect == "tgi" else {**sent, "max_tokens": 5}
    path = "/generate_stream" if dialect == "tgi" else PATHS[dialect]

    events = await streamed(client, path, sent, headers)

    assert "b answers instead of unloadable (model_unavailable)" in [e.data for e in events if e.name == ":"]
    rest = [event.data for event in events if event.name != ":"]
    if dialect == "chat":
        assert {chunk["model"] for chunk in rest} == {"b"}
        assert (rest[-1]["fallback_from"], "receipt" in rest[-1]) == ("unloadable", True)
    elif dialect == "messages":
        assert (rest[0]["type"], rest[0]["message"]["model"]) == ("message_start", "b")
        ends = [event for event in rest if event["type"] == "message_delta"]
        assert ends[0]["fallback_from"] == "unloadable"
    else:
        assert rest[-1]["generated_text"]


async def test_whole_answer_does_not_sit_out_a_failed_start(
    gateway: Running, client: httpx.AsyncClient
) -> None:
    """Without a fallback this request would wait for one try after the other, up to five minutes."""
    await until_it_can_be_tried(gateway)

    async with asyncio.timeout(10):
        answer = (await ask(client, "native", "unloadable", fallback=["b"])).json()

    assert (answer["model_id"], answer["fallback_reason"]) == ("b", "model_unavailable")


async def test_model_that_just_failed_is_not_tried_again_by_who_may_fall_back(
    gateway: Running, client: httpx.AsyncClient
) -> None:
    await until_it_can_be_tried(gateway)
    await ask(client, "native", "unloadable", fallback=["b"])
    before = gateway.metric("gateway_starts_total")

    answer = (await ask(client, "native", "unloadable", fallback=["b"])).json()

    assert answer["fallback_reason"] == "model_unavailable"
    assert gateway.metric("gateway_starts_total") == before


async def test_wait_that_is_over_leaves_only_who_can_answer_at_once(
    gateway: Running, client: httpx.AsyncClient
) -> None:
    await until_it_can_be_tried(gateway)
    sent = {"model_id": "unloadable", "inputs": "x", "wait_s": 0.15}

    at_once = (await client.post("/v1/generate", json={**sent, "fallback": ["b"]})).json()

    assert (at_once["model_id"], at_once["fallback_reason"]) == ("b", "wait_timeout")


async def test_who_leaves_is_answered_by_nobody(gateway: Running, client: httpx.AsyncClient) -> None:
    await until_it_can_be_tried(gateway)
    sent = {"model_id": "unloadable", "inputs": "x", "fallback": ["b"], "stream": True}
    before = gateway.metric("gateway_fallbacks_total")
    async with client.stream("POST", "/v1/generate", json=sent) as response:
        await anext(events_of(response))

    def is_over() -> bool:
        return gateway.metric("gateway_generations_open") == 0

    await asyncio.to_thread(until, is_over, "the request to be forgotten")
    assert gateway.metric("gateway_fallbacks_total") == before


async def test_no_place_is_kept_by_who_moved_on(gateway: Running, client: httpx.AsyncClient) -> None:
    await asyncio.gather(*(ask(client, "native", "guarded") for _ in range(5)))
    await until_it_can_be_tried(gateway)
    await ask(client, "native", "unloadable", fallback=["b"])

    def all_are_free() -> bool:
        rows = [row for row in gateway.get("/v1/models").json()["data"] if "split" not in row]
        return all(row["in_flight"] == row["waiting"] == 0 for row in rows)

    await asyncio.to_thread(until, all_are_free, "all places to be given back")
    assert gateway.metric("gateway_generations_open") == 0
