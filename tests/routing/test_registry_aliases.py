"""What is wrong with an alias is said in words, with its place, and all of it at once."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import Registry
from gateway.registry import RegistryError, parse

MODELS = [{"id": name, "family": "qwen2", "url": f"http://{name}:80"} for name in ("qwen2", "llama3", "phi")]


def read(aliases: dict[str, Any], **more: Any) -> Registry:
    raw = {"models": MODELS, "aliases": aliases, **more}
    return parse(raw, "models.yaml", families=["qwen2"], engines=["tgi"])


def problems(meaning: object, **more: Any) -> list[str]:
    with pytest.raises(RegistryError) as caught:
        read({"chat": meaning, **more})
    return [str(problem) for problem in caught.value.problems]


def test_plain_alias_and_record_with_to_mean_the_same() -> None:
    registry = read({"fast": "qwen2", "slow": {"to": "llama3", "fallback": ["qwen2"]}})

    assert registry.aliases["fast"].to == "qwen2"
    assert registry.resolve("slow") == "llama3"
    assert registry.aliases["slow"].fallback == ("qwen2",)
    assert registry.splits() == {}


def test_split_resolves_to_its_likeliest() -> None:
    aliases = {"chat": {"split": {"qwen2": 10, "llama3": 90}, "sticky": "user", "fallback": ["llama3"]}}
    registry = read(aliases, default_model="chat")

    assert registry.default() == registry.resolve("chat") == "llama3"
    assert registry.aliases["chat"].models == ("llama3", "qwen2")
    assert list(registry.splits()) == ["chat"]


@pytest.mark.parametrize(
    ("meaning", "said"),
    [
        ("qwen3", "aliases.chat: points at `qwen3`, no model here (did you mean `qwen2`?)"),
        ({"to": "lama3"}, "aliases.chat.to: points at `lama3`, no model here (did you mean `llama3`?)"),
        ({"split": {"qwen3": 1}}, "aliases.chat.split.qwen3: points at `qwen3`, no model here"),
        ({}, "aliases.chat: needs `to` (the model it means) or `split`"),
        ({"to": "qwen2", "split": {"llama3": 1}}, "aliases.chat: has `to` and also `split`"),
        ({"split": {}}, "aliases.chat.split: should have at least 1 item"),
        ({"split": {"qwen2": 0}}, "aliases.chat.split.qwen2: input should be greater than 0 (got 0)"),
        ({"split": {"qwen2": -1}}, "aliases.chat.split.qwen2: input should be greater than 0"),
        ({"split": {"qwen2": float("inf")}}, "aliases.chat.split.qwen2: input should be"),
        ({"split": {"qwen2": float("nan")}}, "aliases.chat.split.qwen2: input should be"),
        ({"split": {"qwen2": "much"}}, "aliases.chat.split.qwen2: input should be a valid number"),
        ({"split": {"qwen2": 1}, "sticky": "ip"}, "aliases.chat.sticky: input should be 'session', 'user'"),
        (
            {"split": {"qwen2": 1}, "stiky": "user"},
            "aliases.chat.stiky: unknown key (did you mean `sticky`?)",
        ),
        ({"to": "qwen2", "sticky": "user"}, "aliases.chat.sticky: has no effect without `split`"),
        (
            {"to": "qwen2", "fallback": ["qwen2"]},
            "aliases.chat.fallback[0]: `qwen2` cannot be its own fallback",
        ),
        ({"split": {"qwen2": 1}, "fallback": ["qwen2"]}, "fallback[0]: `qwen2` cannot be its own fallback"),
        (
            {"to": "qwen2", "fallback": ["chat"]},
            "aliases.chat.fallback[0]: `chat` cannot be its own fallback",
        ),
        ({"to": "qwen2", "fallback": ["phi3"]}, "aliases.chat.fallback[0]: points at `phi3`, no model here"),
        ({"to": "qwen2", "fallback": ["phi", "phi"]}, "aliases.chat.fallback: has `phi` 2 times"),
        (
            {"to": "fast"},
            "aliases.chat.to: points at `fast`, which is an alias itself: name the model it means",
        ),
        ({"split": {"fast": 1}}, "aliases.chat.split.fast: points at `fast`, which is an alias itself"),
        (["qwen2"], "aliases.chat: "),
        (7, "aliases.chat: "),
    ],
    ids=str,
)
def test_what_is_wrong_with_an_alias_is_said(meaning: object, said: str) -> None:
    found = problems(meaning, fast="phi")

    assert any(said in problem for problem in found), found


def test_an_arm_cannot_be_called_none() -> None:
    raw = {"models": [{**MODELS[0], "id": "none"}], "aliases": {"chat": {"split": {"none": 1}}}}

    with pytest.raises(RegistryError, match=r"aliases\.chat\.split\.none: a model called `none`"):
        parse(raw, "models.yaml", families=["qwen2"], engines=["tgi"])


def test_an_alias_cannot_have_a_models_name() -> None:
    with pytest.raises(RegistryError, match="the name `phi` is taken already"):
        read({"phi": {"split": {"qwen2": 1, "llama3": 1}}})


def test_a_split_with_its_arm_as_fallback_is_fine() -> None:
    """It is for those whom the other arm cannot answer."""
    read({"chat": {"split": {"qwen2": 90, "llama3": 10}, "fallback": ["llama3"]}})
