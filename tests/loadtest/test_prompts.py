"""What users ask: the same for the same seed, in both languages, with lengths as people's."""

from __future__ import annotations

import re
from collections import Counter
from statistics import fmean, median

import pytest

from loadtest.corpus import FOLLOW_UPS, QUESTIONS, REQUESTS, SENTENCES
from loadtest.prompts import ANSWER_TOKENS, SCENARIOS, Ask, Prompts, Target
from loadtest.targets import BadTargets, listed, parse_weights

TARGETS = [Target("qwen2", 2, ("zh", "en")), Target("llama3", 1, ("en",))]
CHINESE = re.compile("[\u4e00-\u9fff]")


def asks(seed: int, who: str, count: int = 50) -> list[tuple[str, Ask]]:
    prompts = Prompts(seed, who, TARGETS)
    found = []
    for _ in range(count):
        target = prompts.target()
        found.append((target.model, prompts.ask(target)))
    return found


def test_the_same_seed_gives_the_same_requests() -> None:
    assert asks(1, "SeedUser/0/1") == asks(1, "SeedUser/0/1")


def test_another_seed_and_another_user_give_others() -> None:
    first = asks(1, "SeedUser/0/1")
    assert first != asks(2, "SeedUser/0/1")
    assert first != asks(1, "SeedUser/0/2")


def test_models_and_scenarios_come_by_weight() -> None:
    found = asks(3, "many", 6000)
    models = Counter(model for model, _ in found)
    assert models["qwen2"] / models["llama3"] == pytest.approx(2, rel=0.1)
    scenarios = Counter(ask.scenario for _, ask in found)
    for name, share in SCENARIOS.items():
        assert scenarios[name] / len(found) == pytest.approx(share, abs=0.03)


def test_a_model_is_asked_in_a_language_that_it_speaks() -> None:
    found = asks(4, "many", 1000)
    assert {ask.language for model, ask in found if model == "llama3"} == {"en"}
    assert {ask.language for model, ask in found if model == "qwen2"} == {"en", "zh"}
    for _, ask in found:
        assert bool(CHINESE.search(ask.text)) == (ask.language == "zh"), ask


def test_lengths_are_skewed_as_peoples_are_and_bounded() -> None:
    found = [ask for _, ask in asks(5, "many", 6000)]
    answers = [ask.max_new_tokens for ask in found]
    assert 95 < median(answers) < 125
    assert fmean(answers) > median(answers)
    assert 115 < fmean(answers) < 145, "100 users with pauses of 2 s are to ask about 20 times a second"
    for ask in found:
        lengths = ANSWER_TOKENS[ask.scenario]
        assert lengths.least <= ask.max_new_tokens <= lengths.most
    texts = sorted(len(ask.text) for ask in found)
    assert texts[-1] > 20 * texts[len(texts) // 2] ** 0.5
    assert max(len(ask.text.split()) for ask in found if ask.language == "en") < 1200


def test_both_languages_have_as_much_to_say() -> None:
    for corpus in (QUESTIONS, SENTENCES, FOLLOW_UPS, REQUESTS):
        assert len(corpus["en"]) == len(corpus["zh"])
        for texts in corpus.values():
            assert len(set(texts)) == len(texts)


def test_weights_are_read_and_wrong_ones_named() -> None:
    assert parse_weights("qwen2=2, llama3") == {"qwen2": 2.0, "llama3": 1.0}
    assert parse_weights("") == {}
    for wrong in ("=1", "qwen2=none", "qwen2=0", "qwen2=-1"):
        with pytest.raises(BadTargets, match="--models takes"):
            parse_weights(wrong)


def test_models_that_the_gateway_lists_are_asked_alike_and_splits_only_by_name() -> None:
    body = {
        "data": [
            {"id": "a", "state": "ready", "languages": ["zh"]},
            {"id": "b", "state": "stopped", "languages": []},
            {"id": "both", "split": {"a": 1, "b": 1}},
        ],
        "aliases": {"fast": "a"},
    }
    assert listed(body, {}) == [Target("a", 1, ("zh",)), Target("b", 1, ())]
    assert [one.model for one in listed(body, {"both": 1, "fast": 1})] == ["both", "fast"]
    with pytest.raises(BadTargets, match="no model nobody; it has: a, b, both"):
        listed(body, {"nobody": 1})
