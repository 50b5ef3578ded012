"""What only the llama.cpp backend does: a real model in a child process."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from engine_process import Engine, until

QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
STORY = "<|im_start|>user\nWrite a long story about the sea.<|im_end|>\n<|im_start|>assistant\n"
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
pytestmark = pytest.mark.weights


def _child(engine: Engine) -> psutil.Process:
    until(lambda: bool(engine.child_pids()))
    (pid,) = engine.child_pids()
    return psutil.Process(pid)


def _gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_real_answer_ends_with_a_special_end_token(llama_engine: Engine) -> None:
    body = llama_engine.generate(QUESTION, max_new_tokens=30)
    assert body["generated_text"] == "The capital of France is Paris."
    details = body["details"]
    assert details["finish_reason"] == "eos_token"
    last = details["tokens"][-1]
    assert (last["id"], last["text"], last["special"]) == (2, "<|im_end|>", True)
    assert details["generated_tokens"] == len(details["tokens"]) == 8


def test_an_end_token_that_is_the_last_allowed_counts_as_length(llama_engine: Engine) -> None:
    body = llama_engine.generate(QUESTION, max_new_tokens=8)
    assert body["details"]["finish_reason"] == "length"
    assert body["generated_text"] == "The capital of France is Paris."


@pytest.mark.parametrize("stop", ["France is", "ari"])
def test_a_stop_string_over_or_inside_tokens_is_found(llama_engine: Engine, stop: str) -> None:
    events = llama_engine.stream(QUESTION, max_new_tokens=30, stop=[stop])
    assert events[-1]["generated_text"].endswith(stop)
    assert events[-1]["generated_text"] == "".join(event["token"]["text"] for event in events)
    assert events[-1]["details"]["finish_reason"] == "stop_sequence"


def test_characters_that_span_tokens_arrive_whole_and_are_counted(llama_engine: Engine) -> None:
    events = llama_engine.stream("你好", max_new_tokens=24)
    last = events[-1]
    assert "\ufffd" not in last["generated_text"]
    assert last["generated_text"] == "".join(event["token"]["text"] for event in events)
    assert last["index"] == last["details"]["generated_tokens"] == 24
    assert len(events) < 24, "every token was a whole character: this prompt no longer shows the case"


def test_without_a_limit_the_slots_context_is_the_limit(llama_engine: Engine) -> None:
    prompt = "word " * 230
    body = llama_engine.generate(prompt, do_sample=True, seed=3, temperature=2.0)
    length = len(llama_engine.post("/tokenize", {"inputs": prompt}).json())
    if body["details"]["finish_reason"] == "length":
        assert length + body["details"]["generated_tokens"] == 256
    assert length + body["details"]["generated_tokens"] <= 256


def test_a_regex_grammar_is_kept_to(llama_engine: Engine) -> None:
    grammar = {"type": "regex", "value": r"[0-9]{3}/[a-z]{2}"}
    assert re.fullmatch(
        grammar["value"], llama_engine.generate("Id:", max_new_tokens=20, grammar=grammar)["generated_text"]
    )


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "json", "value": SCHEMA},
        {"type": "json", "value": json.dumps(SCHEMA)},
        {"type": "json_schema", "value": {"name": "person", "schema": SCHEMA}},
    ],
)
def test_a_json_grammar_is_kept_to(llama_engine: Engine, grammar: dict[str, Any]) -> None:
    events = llama_engine.stream("Tom is 7 years old. As JSON:", max_new_tokens=40, grammar=grammar)
    answer = json.loads(events[-1]["generated_text"])
    assert set(answer) == {"age"}
    assert isinstance(answer["age"], int)


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ({"type": "regex", "value": "[0-9"}, "unterminated character set"),
        ({"type": "regex", "value": "a(?=b)"}, "`(?=` is not supported"),
        ({"type": "regex", "value": 7}, "a regex is a string"),
        ({"type": "json", "value": {"type": "object"}}, "needs a `properties` field"),
        ({"type": "json", "value": "{"}, "Expecting property name"),
        ({"type": "json", "value": {"properties": {"a": {"type": "nonsense"}}}}, "nonsense"),
        ({"type": "json", "value": {"properties": {"a": {"$ref": "https://example.com/x"}}}}, "example.com"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_refused(
    llama_engine: Engine, grammar: dict[str, Any], reason: str
) -> None:
    answer = llama_engine.post("/generate", {"inputs": "x", "parameters": {"grammar": grammar}})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"].startswith("Input validation error: grammar is not valid: ")
    assert reason in answer.json()["error"]


def test_chat_tokenize_applies_the_models_template(llama_engine: Engine) -> None:
    body = llama_engine.post("/chat_tokenize", {"messages": [{"role": "user", "content": "hi"}]}).json()
    assert body["templated_text"].endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    assert "".join(token["text"] for token in body["tokenize_response"]) == body["templated_text"]


def test_the_child_is_private(llama_engine: Engine) -> None:
    child = _child(llama_engine)
    assert not any("gguf" in word or ".sock" in word for word in child.cmdline())
    assert child.environ()["OMP_WAIT_POLICY"] == "passive"
    assert os.getsid(child.pid) == child.pid, "Ctrl-C in a terminal would reach it"
    assert not child.net_connections(kind="tcp")


@pytest.fixture
def own_engine(start_engine: Callable[..., Engine], small_model: str, tmp_path: Path) -> Engine:
    """An engine that a test may break, with its temporary files where the test can see them."""
    arguments = ("--backend", "llama", "--model", small_model, "--slots", "2", "--context-per-slot", "512")
    return start_engine(*arguments, env={"TMPDIR": str(tmp_path)})


def test_the_childs_death_is_told_and_it_comes_back(own_engine: Engine) -> None:
    own_engine.wait_for_line(r"phase=loading progress=0")
    own_engine.wait_for_line(r"phase=warming_up")
    own_engine.wait_ready()
    child = _child(own_engine)
    sentence = "Request failed during generation: Server error: the engine process ended"
    expected = {"error": sentence, "error_type": "generation"}
    body = {"inputs": STORY, "parameters": {"max_new_tokens": 400, "do_sample": True, "seed": 5}}
    with ThreadPoolExecutor(2) as pool:
        plain = pool.submit(own_engine.post, "/generate", body)
        stream = pool.submit(own_engine.post, "/generate_stream", body)
        until(lambda: own_engine.metric("tgi_batch_current_size") == 2)
        child.kill()
        assert (plain.result().status_code, plain.result().json()) == (424, expected)
        assert json.loads(stream.result().text.split("\n\n")[-2][6:]) == expected
    unhealthy = own_engine.get("/health")
    assert (unhealthy.status_code, unhealthy.json()) == (
        503,
        {"error": "unhealthy", "error_type": "healthcheck"},
    )
    assert own_engine.post("/generate", body).status_code == 424
    until(lambda: own_engine.get("/health").status_code == 200)
    assert own_engine.generate(QUESTION, max_new_tokens=20)["generated_text"].endswith("Paris.")


def test_sigterm_leaves_neither_process_nor_file(own_engine: Engine, tmp_path: Path) -> None:
    own_engine.wait_ready()
    child = _child(own_engine)
    assert list(tmp_path.iterdir())
    assert own_engine.end(signal.SIGTERM) == 0
    assert _gone(child)
    assert not list(tmp_path.iterdir())


def test_sigkill_leaves_no_child(own_engine: Engine, tmp_path: Path) -> None:
    own_engine.wait_ready()
    child = _child(own_engine)
    own_engine.end(signal.SIGKILL)
    until(lambda: _gone(child), timeout_s=5)
    until(lambda: not list(tmp_path.iterdir()), timeout_s=5)


def test_sigkill_while_loading_leaves_no_child(own_engine: Engine) -> None:
    own_engine.wait_for_line("phase=loading progress=0.")
    child = _child(own_engine)
    own_engine.end(signal.SIGKILL)
    until(lambda: _gone(child), timeout_s=5)
