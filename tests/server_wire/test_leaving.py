"""Clients that leave, at each stage of a request: nothing of theirs stays behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from harness import Running, model, start_echo, start_gateway, until
from server_wire.cases import ID
from server_wire.raw import chunked, connected, got, leave, posted, read, taken

LONG = {"inputs": "word " * 400, "parameters": {"max_new_tokens": 400}}
STREAM = {**LONG, "stream": True}
REQUEST = posted("/v1/generate", LONG)
BEFORE_THE_ENGINE = {
    "nothing sent": b"",
    "half a request line": b"POST /gene",
    "half a head": REQUEST[:60],
    "head alone": REQUEST[: REQUEST.index(b"\r\n\r\n") + 4],
    "half a body": REQUEST[:-50],
    "half a chunk": chunked("/generate", LONG, size=500)[:700],
}
WORDS = [{"role": "user", "content": "word " * 400}]
CHAT = {"model": "echo", "messages": WORDS, "max_tokens": 400}
AT_THE_ENGINE = {
    "plain, chat": posted("/v1/chat/completions", CHAT),
    "stream, chat": posted("/v1/chat/completions", {**CHAT, "stream": True}),
    "stream, messages": posted("/v1/messages", {**CHAT, "stream": True}),
    "plain": posted("/generate", LONG),
    "plain, native": REQUEST,
    "stream": posted("/generate_stream", LONG),
    "stream, native": posted("/v1/generate", STREAM),
    "ordinary before": got("/ping") + posted("/generate", LONG),
    "half of another behind": posted("/v1/generate", STREAM) + REQUEST[:90],
    "in chunks": chunked("/generate", LONG, size=500),
}


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Running]]:
    """A slow engine, and a gateway in front of it."""
    folder = tmp_path_factory.mktemp("slow")
    engine = start_echo(folder, tokens_per_s=5)
    running = start_gateway(folder, {"models": [model(engine.url)]})
    yield engine, running
    running.stop()
    engine.stop()


def settled(running: Running) -> bool:
    """Nothing runs, and no connection but the one that asks is open."""
    alone = (
        running.metric("gateway_open_connections") == 1 and running.metric("gateway_http_requests_open") == 1
    )
    return alone and running.get("/v1/models/echo").json()["in_flight"] == 0


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize("sent", BEFORE_THE_ENGINE.values(), ids=BEFORE_THE_ENGINE)
def test_client_that_leaves_early_reaches_no_engine(
    slow: tuple[Running, Running], sent: bytes, how: str
) -> None:
    engine, running = slow
    asked, begin = engine.metric("tgi_request_count"), len(running.output)
    client = connected(running.url)
    client.sendall(sent)
    taken([client])
    leave(client, how)
    until(lambda: settled(running), "all of it to be gone")
    assert engine.metric("tgi_request_count") == asked
    assert "Traceback" not in running.output[begin:]


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize("sent", AT_THE_ENGINE.values(), ids=AT_THE_ENGINE)
def test_client_that_leaves_stops_its_engine_and_nothing_behind_begins(
    slow: tuple[Running, Running], sent: bytes, how: str
) -> None:
    engine, running = slow
    asked, dropped = engine.metric("tgi_request_count"), engine.metric("tgi_request_failure")
    begin = len(running.output)
    client = connected(running.url)
    client.sendall(sent)
    until(lambda: engine.metric("tgi_batch_current_size") == 1, "the engine to generate")
    leave(client, how)
    until(lambda: engine.metric("tgi_batch_current_size") == 0, "the engine to have stopped")
    until(lambda: settled(running), "all of it to be gone")
    assert engine.metric("tgi_request_count") == asked + 1
    assert engine.metric("tgi_request_failure") == dropped + 1
    assert "Traceback" not in running.output[begin:]


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_client_that_leaves_others_behind_stops_its_engine(slow: tuple[Running, Running], path: str) -> None:
    engine, running = slow
    few = {"inputs": "word " * 20, "parameters": {"max_new_tokens": 20}}
    asked, dropped = engine.metric("tgi_request_count"), engine.metric("tgi_request_failure")
    begin = len(running.output)
    client = connected(running.url)
    client.sendall(posted(path, few) + posted("/generate", LONG) + REQUEST)
    until(lambda: engine.metric("tgi_batch_current_size") == 1, "the engine to generate")
    client.close()
    until(lambda: engine.metric("tgi_batch_current_size") == 0, "the engine to have stopped")
    until(lambda: settled(running), "all of it to be gone")
    assert engine.metric("tgi_request_failure") == dropped + 1
    assert engine.metric("tgi_request_count") == asked + 1
    assert "Traceback" not in running.output[begin:]


def test_client_may_close_behind_its_answer(slow: tuple[Running, Running]) -> None:
    _, running = slow
    short = {"inputs": "one", "parameters": {"max_new_tokens": 1}}
    for how in ("close", "reset", "half"):
        client = connected(running.url)
        client.sendall(posted("/generate", short))
        assert read(client, 1)[0].status == 200
        leave(client, how)
    until(lambda: settled(running), "all of it to be gone")


def test_answer_behind_a_slow_one_waits_for_it(slow: tuple[Running, Running]) -> None:
    """Answers keep their order, also when the second one would be there first."""
    _, running = slow
    three = {"inputs": "one two three", "parameters": {"max_new_tokens": 3}}
    with closing(connected(running.url)) as client:
        client.sendall(posted("/generate_stream", three, ID + "slow") + got("/ping", ID + "quick"))
        answers = read(client, 2)
    assert [answer.header("x-request-id") for answer in answers] == ["slow", "quick"]
