"""The pure half of the llama.cpp backend, on chunks as llama.cpp sends them."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.engine import grammars
from gateway.engine.backend import Job, Step
from gateway.engine.llama_steps import StepReader, completion_body, prompt_tokens
from gateway.wire.tgi import GenerateParameters, Grammar


def _job(max_new_tokens: int = 9, seed: int | None = None, **parameters: Any) -> Job:
    return Job("hi", (), max_new_tokens, seed, GenerateParameters(**parameters))


def _chunk(text: str, token: int, count: int, **more: Any) -> dict[str, Any]:
    probability = {"id": token, "logprob": -0.5, "top_logprobs": []}
    return {
        "content": text,
        "tokens": [token],
        "stop": False,
        "tokens_predicted": count,
        "completion_probabilities": [probability],
        **more,
    }


def _end(reason: str, count: int, word: str = "") -> dict[str, Any]:
    end = {"stop": True, "stop_type": reason, "stopping_word": word, "tokens_predicted": count}
    return {"content": "", "tokens": [], **end}


def _read(chunks: list[dict[str, Any]], **job: Any) -> list[Step]:
    reader = StepReader(
        _job(**job),
    )
    steps = [step for chunk in chunks for step in reader.feed(chunk)]
    assert reader.ended
    return steps


def _brief(steps: list[Step]) -> list[tuple[int, int, str, bool, str | None]]:
    return [(step.index, step.id, step.text, step.special, step.finish) for step in steps]


def test_a_chunk_with_text_is_passed_on_at_once() -> None:
    reader = StepReader(_job())
    assert [step.text for step in reader.feed(_chunk("The", 5, 1))] == ["The"]


def test_the_end_token_is_special_and_last() -> None:
    steps = _read([_chunk("Hi", 5, 1), _chunk("", 2, 2), _end("eos", 2)])
    assert _brief(steps) == [(1, 5, "Hi", False, None), (2, 2, "", True, "eos_token")]


def test_an_end_token_at_the_limit_is_length() -> None:
    steps = _read([_chunk("Hi", 5, 1), _chunk("", 2, 2), _end("eos", 2)], max_new_tokens=2)
    assert steps[-1].finish == "length"
    assert steps[-1].special


def test_the_last_token_at_the_limit_carries_the_end() -> None:
    steps = _read([_chunk("a", 5, 1), _chunk("b", 6, 2), _end("limit", 2)], max_new_tokens=2)
    assert _brief(steps) == [(1, 5, "a", False, None), (2, 6, "b", False, "length")]


def test_a_stop_string_that_was_cut_off_is_put_back() -> None:
    chunks = [_chunk("The", 5, 1), _chunk("", 6, 2), _chunk(" ", 7, 3, timings={}), _end("word", 3, "cap of")]
    assert _brief(_read(chunks)) == [
        (1, 5, "The", False, None),
        (2, 6, "", False, None),
        (3, 7, " cap of", False, "stop_sequence"),
    ]


def test_text_that_was_held_back_in_vain_comes_with_the_next_token() -> None:
    steps = _read([_chunk("", 6, 1), _chunk(" cap", 7, 2), _chunk("", 2, 3), _end("eos", 3)])
    assert [(step.index, step.text) for step in steps] == [(1, ""), (2, " cap"), (3, "")]


def test_tokens_without_a_chunk_are_counted() -> None:
    steps = _read([_chunk("；", 245, 2), _chunk("；", 245, 4), _end("limit", 5)], max_new_tokens=5)
    assert _brief(steps) == [
        (2, 245, "；", False, None),
        (4, 245, "；", False, None),
        (5, 0, "", False, "length"),
    ]


def test_greedy_and_sampling_write_out_every_default() -> None:
    greedy = completion_body(_job(), 2048)
    assert (greedy["temperature"], greedy["top_k"], greedy["min_p"], greedy["repeat_last_n"]) == (
        0,
        1,
        0,
        2048,
    )
    sampled = completion_body(_job(seed=7, do_sample=True), 2048)
    names = [
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "min_p",
        "repeat_penalty",
        "frequency_penalty",
        "seed",
    ]
    assert [sampled[name] for name in names] == [1.0, 0, 1.0, 1.0, 0, 1.0, 0.0, 7]


@pytest.mark.parametrize("seed", [2**32 - 1, 2**64 - 1, 2**33 + 5])
def test_a_seed_never_becomes_llama_cpps_word_for_random(seed: int) -> None:
    assert 0 <= completion_body(_job(seed=seed), 2048)["seed"] < 2**32 - 1


def test_an_added_token_gets_an_empty_range() -> None:
    tokens = prompt_tokens(
        "é!", [{"id": 1, "piece": "<s>"}, {"id": 2, "piece": "é"}, {"id": 3, "piece": "!"}]
    )
    assert [(token.text, token.start, token.stop) for token in tokens] == [
        ("<s>", 0, 0),
        ("é", 0, 1),
        ("!", 1, 2),
    ]


@pytest.mark.parametrize(
    ("regex", "start"),
    [("a/b", r"start: /a\/b/"), (r"a\/b", r"start: /a\/b/"), ("a\\\\/b", "start: /a\\\\\\/b/")],
)
def test_a_slash_in_a_regex_is_escaped_once(regex: str, start: str) -> None:
    assert grammars.for_llama(Grammar(type="regex", value=regex))["grammar"].splitlines()[1] == start


def test_schemas_are_closed_unless_they_say_otherwise() -> None:
    inner = {"properties": {"properties": {"type": "integer"}}}
    schema = {"properties": {"a": inner, "b": {"properties": {}, "additionalProperties": True}}}
    made = grammars.for_llama(Grammar(type="json", value=schema))["json_schema"]
    assert made["additionalProperties"] is False
    assert made["properties"]["a"]["additionalProperties"] is False
    assert made["properties"]["a"]["properties"] == {"properties": {"type": "integer"}}
    assert made["properties"]["b"]["additionalProperties"] is True
