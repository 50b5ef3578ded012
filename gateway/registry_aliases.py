"""What can be wrong with ``aliases:``, on the raw data: it is said also where single fields are wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from gateway.aliases import NO_ARM
from gateway.problems import Problem, points_at


def alias_problems(aliases: Mapping[Any, Any], ids: Collection[str]) -> Iterator[Problem]:
    """Everything that is wrong with what the aliases point at. ``ids`` are those of the models."""
    for alias, meaning in aliases.items():
        path = f"aliases.{alias}"
        if isinstance(meaning, dict):
            yield from _record(path, str(alias), meaning, aliases, ids)
        else:
            yield from _target(path, meaning, aliases, ids)


def _record(
    path: str, alias: str, record: Mapping[str, Any], aliases: Mapping[Any, Any], ids: Collection[str]
) -> Iterator[Problem]:
    to, split = record.get("to"), record.get("split")
    if to is None and split is None:
        yield Problem(path, "needs `to` (the model it means) or `split` (models that share its requests)")
    if to is not None and split is not None:
        yield Problem(path, "has `to` and also `split`: with `to` one model answers, with `split` several")
    if to is not None:
        yield from _target(f"{path}.to", to, aliases, ids)
        yield from _without_effect(path, record)
    if isinstance(split, dict):
        for arm in split:
            yield from _target(f"{path}.split.{arm}", arm, aliases, ids)
        if NO_ARM in split:
            why = f"a model called `{NO_ARM}` looks like requests without a split: give it another id"
            yield Problem(f"{path}.split.{NO_ARM}", why)
    own = [to] if split is None else list(split) if isinstance(split, dict) else []
    yield from _fallback(f"{path}.fallback", alias, record.get("fallback"), own, aliases, ids)


def _without_effect(path: str, record: Mapping[str, Any]) -> Iterator[Problem]:
    for key in ("sticky", "block_requests", "block_s"):
        if record.get("split") is None and record.get(key) is not None:
            yield Problem(f"{path}.{key}", "has no effect without `split`: one model answers everybody")


def _fallback(
    path: str, alias: str, fallback: object, own: list[Any], aliases: Mapping[Any, Any], ids: Collection[str]
) -> Iterator[Problem]:
    names = fallback if isinstance(fallback, list) else []
    for at, name in enumerate(names):
        if name == alias or [name] == own:
            yield Problem(f"{path}[{at}]", f"`{name}` cannot be its own fallback: name another model")
        else:
            yield from _target(f"{path}[{at}]", name, aliases, ids)
    for name, count in Counter(map(str, names)).items():
        if count > 1:
            yield Problem(path, f"has `{name}` {count} times: a model is asked once")


def _target(path: str, target: object, aliases: Mapping[Any, Any], ids: Collection[str]) -> Iterator[Problem]:
    if target in ids or not isinstance(target, str) or target not in aliases:
        yield from points_at(path, target, ids)
        return
    meaning = aliases[target]
    meant = f": name the model it means, `{meaning}`" if meaning in ids else ": name models"
    yield Problem(path, f"points at `{target}`, which is an alias itself{meant}")
