"""Clients made for TGI, unmodified, against the gateway: each call over a real socket, in its own process."""

from __future__ import annotations

import sys
from typing import Any

import pytest

WORDS = ["hello", " brave", " new", " world"]
TEXT = "".join(WORDS)
MODES = pytest.mark.parametrize("mode", ["sync", "async"])


@pytest.fixture(
    scope="session", params=["current", pytest.param("0.36", marks=pytest.mark.clients)], ids=lambda it: it
)
def hub(request: pytest.FixtureRequest, tgi_calls: Any) -> dict[str, Any]:
    """What huggingface_hub got, in a current and in an old version."""
    current = request.param == "current"
    python = sys.executable if current else request.getfixturevalue("legacy_python")
    results: dict[str, Any] = tgi_calls(python, "hub_calls.py")
    assert (results["version"].split(".")[0] != "0") is current
    return results


@pytest.fixture(scope="session")
def text_generation(legacy_python: str, tgi_calls: Any) -> dict[str, Any]:
    """What text-generation got."""
    results: dict[str, Any] = tgi_calls(legacy_python, "text_generation_calls.py")
    assert results["version"] == "0.7.0"
    return results


@MODES
@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("plain", TEXT),
        ("full text", TEXT + TEXT),
        ("sampled", " new world hello brave"),
        ("stream", WORDS),
        ("alias in the path", TEXT),
        ("generate route", TEXT),
        ("model that comes in", WORDS),
        ("health", True),
    ],
)
def test_hub_gets_the_text(hub: Any, mode: str, case: str, expected: Any) -> None:
    assert hub[mode][case] == {"value": expected}


@MODES
def test_hub_gets_every_detail(hub: Any, mode: str) -> None:
    answer, best, top = (hub[mode][case]["value"] for case in ("details", "best of", "top tokens"))

    assert answer["generated_text"] == TEXT
    assert (answer["details"]["finish_reason"], answer["details"]["generated_tokens"]) == ("length", 4)
    assert [token["text"] for token in answer["details"]["tokens"]] == WORDS
    assert answer["details"]["prefill"] == []
    assert [len(one["tokens"]) for one in best["details"]["best_of_sequences"]] == [4]
    assert [[one["text"] for one in place] for place in top["details"]["top_tokens"]] == [[w] for w in WORDS]


@MODES
def test_hub_gets_the_whole_text_with_the_last_token_of_a_stream(hub: Any, mode: str) -> None:
    *before, last = hub[mode]["stream details"]["value"]

    assert [event["token"]["text"] for event in [*before, last]] == WORDS
    assert [event["generated_text"] for event in before] == [None, None, None]
    assert last["generated_text"] == TEXT
    assert (last["details"]["finish_reason"], last["details"]["input_length"]) == ("length", 4)


@MODES
def test_hub_reads_texts_with_odd_ends_of_lines(hub: Any, mode: str) -> None:
    *said, _ = hub[mode]["ends of lines"]["value"]

    assert "".join(said) == "one\u2028two\x85three"


@MODES
def test_hub_is_told_what_the_endpoint_takes(hub: Any, mode: str) -> None:
    info = hub[mode]["info"]["value"]

    assert (info["model_id"], info["max_input_tokens"], info["max_best_of"]) == ("echo", 1024, 2)


HUB_ERRORS = [
    ("validation", "ValidationError", "Input validation error: parameters.top_p"),
    ("validation in a stream", "ValidationError", "Input validation error: parameters.top_p"),
    ("too long", "ValidationError", "`inputs` must have less than 1024 tokens"),
    ("unknown model", "UnknownError", "There is no model `nope`"),
    ("overloaded", "OverloadedError", "Model is overloaded"),
    ("overloaded stream", "OverloadedError", "Model is overloaded"),
    ("failed", "GenerationError", "CUDA out of memory"),
    ("failed stream", "GenerationError", "CUDA out of memory"),
    ("broken off", "IncompleteGenerationError", "after 1 tokens"),
    ("broken off stream", "IncompleteGenerationError", "after 1 tokens"),
]


@MODES
@pytest.mark.parametrize(("case", "error", "words"), HUB_ERRORS)
def test_hub_raises_its_own_exception(hub: Any, mode: str, case: str, error: str, words: str) -> None:
    got = hub[mode][case]

    assert got.get("error") == error, got
    assert words in got["said"]


@pytest.mark.clients
@MODES
def test_text_generation_gets_the_whole_answer(text_generation: Any, mode: str) -> None:
    got = text_generation[mode]

    plain = got["plain"]["value"]
    assert plain["generated_text"] == TEXT
    assert [token["text"] for token in plain["details"]["tokens"]] == WORDS
    assert (plain["details"]["generated_tokens"], plain["details"]["prefill"]) == (4, [])
    assert got["full text"]["value"]["generated_text"] == TEXT + TEXT
    assert len(got["best of"]["value"]["details"]["best_of_sequences"]) == 1
    assert [len(place) for place in got["top tokens"]["value"]["details"]["top_tokens"]] == [1] * 4
    assert got["stop"]["value"]["generated_text"] == "hello brave new"
    assert got["stop"]["value"]["details"]["finish_reason"] == "stop_sequence"
    assert got["alias in the path"]["value"]["generated_text"] == TEXT


@pytest.mark.clients
@MODES
@pytest.mark.parametrize("case", ["stream", "top tokens stream", "model that comes in"])
def test_text_generation_gets_every_token_of_a_stream(text_generation: Any, mode: str, case: str) -> None:
    events = text_generation[mode][case]["value"]

    assert [event["token"]["text"] for event in events] == WORDS
    assert events[-1]["generated_text"] == TEXT
    assert events[-1]["details"]["generated_tokens"] == 4
    assert all(event["generated_text"] is None for event in events[:-1])
    assert (events[0]["top_tokens"] is not None) is ("top" in case)


@pytest.mark.clients
@MODES
@pytest.mark.parametrize(
    ("case", "error", "words"),
    [
        ("too long", "ValidationError", "`inputs` must have less than 1024 tokens"),
        ("too long stream", "ValidationError", "`inputs` must have less than 1024 tokens"),
        ("grammar", "ValidationError", "grammar is not supported"),
        ("unknown model", "NotFoundError", "There is no model `nope`"),
        ("overloaded", "OverloadedError", "Model is overloaded"),
        ("overloaded stream", "OverloadedError", "Model is overloaded"),
        ("failed", "GenerationError", "CUDA out of memory"),
        ("failed stream", "GenerationError", "CUDA out of memory"),
        ("broken off", "IncompleteGenerationError", "after 1 tokens"),
        ("broken off stream", "IncompleteGenerationError", "after 1 tokens"),
        ("silent", "ShardTimeoutError", "within 0.5 s"),
    ],
)
def test_text_generation_raises_its_own_exception(
    text_generation: Any, mode: str, case: str, error: str, words: str
) -> None:
    got = text_generation[mode][case]

    assert got.get("error") == error, got
    assert words in got["said"]
