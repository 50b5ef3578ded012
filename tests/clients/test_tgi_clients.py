"""Clients made for TGI, unmodified, against the gateway: each call over a real socket, in its own process.

Twice: with an engine of TGI's kind behind it, and with llama.cpp's own server, of kind ``openai``. What
differs between the two is what those engines cannot do (``behind``), and that is refused with a reason.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest

HELLO = " ".join(["hello brave new world"] * 3)
WORDS, TEXT = "words", "text"
NO_BEST_OF = "its engine, of kind openai, has no such thing"
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
        ("stream", WORDS),
        ("alias in the path", TEXT),
        ("generate route", TEXT),
        ("model that comes in", WORDS),
    ],
)
def test_hub_gets_the_text(hub: Any, behind: Any, mode: str, case: str, expected: Any) -> None:
    assert hub[mode][case] == {"value": getattr(behind, expected, expected)}


@MODES
def test_hub_gets_the_prompt_in_front_and_what_was_drawn(hub: Any, behind: Any, mode: str) -> None:
    assert hub[mode]["full text"] == {"value": HELLO + behind.text}
    drawn = hub[mode]["sampled"]["value"]
    assert drawn == (behind.sampled or hub["sync"]["sampled"]["value"])
    assert drawn


@MODES
def test_hub_gets_every_detail(hub: Any, behind: Any, mode: str) -> None:
    answer, top = (hub[mode][case]["value"] for case in ("details", "top tokens"))

    assert answer["generated_text"] == behind.text
    assert (answer["details"]["finish_reason"], answer["details"]["generated_tokens"]) == ("length", 4)
    assert [token["text"] for token in answer["details"]["tokens"]] == behind.words
    assert answer["details"]["prefill"] == []
    likeliest = [[one["text"] for one in place] for place in top["details"]["top_tokens"]]
    assert likeliest == [[word] for word in behind.words]


@MODES
def test_hub_gets_the_best_of_several_or_hears_why_not(hub: Any, behind: Any, mode: str) -> None:
    got = hub[mode]["best of"]

    if behind.kind == "openai":
        assert got["error"] == "ValidationError"
        assert NO_BEST_OF in got["said"]
    else:
        others = got["value"]["details"]["best_of_sequences"]
        assert [len(one["tokens"]) for one in others] == [4]


@MODES
def test_hub_gets_the_whole_text_with_the_last_token_of_a_stream(hub: Any, behind: Any, mode: str) -> None:
    *before, last = hub[mode]["stream details"]["value"]

    assert [event["token"]["text"] for event in [*before, last]] == behind.words
    assert [event["generated_text"] for event in before] == [None, None, None]
    assert last["generated_text"] == behind.text
    assert (last["details"]["finish_reason"], last["details"]["input_length"]) == ("length", 12)


@MODES
def test_hub_reads_texts_with_odd_ends_of_lines(hub: Any, behind: Any, mode: str) -> None:
    *said, _ = hub[mode]["ends of lines"]["value"]

    # A model goes its own way, but its stream has to be readable to the end.
    assert said
    assert behind.kind == "openai" or "".join(said) == "one\u2028two\x85three"


@MODES
def test_hub_is_told_what_the_endpoint_takes(hub: Any, behind: Any, mode: str) -> None:
    info = hub[mode]["info"]["value"]

    assert hub[mode]["health"] == {"value": True}
    assert info["model_id"] == "echo"
    assert (info["max_input_tokens"], info["max_total_tokens"], info["max_best_of"]) == behind.limits


HUB_ERRORS = [
    ("validation", "ValidationError", "Input validation error: parameters.top_p"),
    ("validation in a stream", "ValidationError", "Input validation error: parameters.top_p"),
    ("too long", "ValidationError", "too_long"),
    ("unknown model", "UnknownError", "There is no model `nope`"),
    ("overloaded", "OverloadedError", "Model is overloaded"),
    ("overloaded stream", "OverloadedError", "Model is overloaded"),
    ("failed", "GenerationError", "CUDA out of memory"),
    ("failed stream", "GenerationError", "CUDA out of memory"),
    ("broken off", "IncompleteGenerationError", "after 1 "),
    ("broken off stream", "IncompleteGenerationError", "after 1 "),
]


@MODES
@pytest.mark.parametrize(("case", "error", "words"), HUB_ERRORS)
def test_hub_raises_its_own_exception(
    hub: Any, behind: Any, mode: str, case: str, error: str, words: str
) -> None:
    got = hub[mode][case]

    assert got.get("error") == error, got
    assert getattr(behind, words, words) in got["said"]


@pytest.mark.clients
@MODES
def test_text_generation_gets_the_whole_answer(text_generation: Any, behind: Any, mode: str) -> None:
    got = text_generation[mode]

    plain = got["plain"]["value"]
    assert plain["generated_text"] == behind.text
    assert [token["text"] for token in plain["details"]["tokens"]] == behind.words
    assert (plain["details"]["generated_tokens"], plain["details"]["prefill"]) == (4, [])
    assert got["full text"]["value"]["generated_text"] == HELLO + behind.text
    assert [len(place) for place in got["top tokens"]["value"]["details"]["top_tokens"]] == [1] * 4
    assert got["stop"]["value"]["generated_text"] == "".join(behind.words[:3])
    assert got["stop"]["value"]["details"]["finish_reason"] == "stop_sequence"
    assert got["alias in the path"]["value"]["generated_text"] == behind.text


@pytest.mark.clients
@MODES
def test_text_generation_gets_the_best_of_several_or_hears_why_not(
    text_generation: Any, behind: Any, mode: str
) -> None:
    got = text_generation[mode]["best of"]

    if behind.kind == "openai":
        assert got["error"] == "ValidationError"
        assert NO_BEST_OF in got["said"]
    else:
        assert len(got["value"]["details"]["best_of_sequences"]) == 1


@pytest.mark.clients
@MODES
@pytest.mark.parametrize("case", ["stream", "top tokens stream", "model that comes in"])
def test_text_generation_gets_every_token_of_a_stream(
    text_generation: Any, behind: Any, mode: str, case: str
) -> None:
    events = text_generation[mode][case]["value"]

    assert [event["token"]["text"] for event in events] == behind.words
    assert events[-1]["generated_text"] == behind.text
    assert events[-1]["details"]["generated_tokens"] == 4
    assert all(event["generated_text"] is None for event in events[:-1])
    assert (events[0]["top_tokens"] is not None) is ("top" in case)


@pytest.mark.clients
@MODES
@pytest.mark.parametrize(
    ("case", "error", "words"),
    [
        ("too long", "ValidationError", "too_long"),
        ("too long stream", "ValidationError", "too_long"),
        ("grammar", "ValidationError", "grammar"),
        ("unknown model", "NotFoundError", "There is no model `nope`"),
        ("overloaded", "OverloadedError", "Model is overloaded"),
        ("overloaded stream", "OverloadedError", "Model is overloaded"),
        ("failed", "GenerationError", "CUDA out of memory"),
        ("failed stream", "GenerationError", "CUDA out of memory"),
        ("broken off", "IncompleteGenerationError", "after 1 "),
        ("broken off stream", "IncompleteGenerationError", "after 1 "),
        ("silent", "ShardTimeoutError", "within 0.5 s"),
    ],
)
def test_text_generation_raises_its_own_exception(
    text_generation: Any, behind: Any, mode: str, case: str, error: str, words: str
) -> None:
    got = text_generation[mode][case]

    assert got.get("error") == error, got
    assert getattr(behind, words, words) in got["said"]
