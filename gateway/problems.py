"""What is wrong with a registry file, and the checks that more than one part of it needs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from gateway.fields import did_you_mean


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where (``models[1].family``), what, and what is allowed."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def points_at(path: str, target: object, ids: Collection[str]) -> Iterator[Problem]:
    """A problem unless ``target`` is one of ``ids``."""
    if target not in ids:
        guess = did_you_mean(str(target), ids)
        yield Problem(path, f"points at `{target}`, no model here{guess}; there are: {', '.join(ids)}")
