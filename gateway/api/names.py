"""Which model a request means, for every dialect that takes a name in its body or in its path."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

DEFAULT_NAMES: Final = frozenset({"tgi", "dummy"})
"""What clients of TGI send as a model when they know none."""


def model_asked(name: str | None, names: Container[str]) -> str | None:
    """The model that a client means; None for the default one, unless a model is really called like that."""
    return None if not name or (name in DEFAULT_NAMES and name not in names) else name
