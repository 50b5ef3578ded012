"""Parameters that were settled before: a client sends the same ones with each of its requests.

What scenario, model and request say together, whether that may be, and how an engine is told: all that
depends on the parameters, and not on the text. It is kept under the parameters as JSON: so 1, 1.0, true and
0.0, -0.0 are not the same, as they would be to a dict. Only what was found right is kept.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Final, Protocol

from pydantic_core import PydanticSerializationError, to_json

from gateway.config import ModelSpec
from gateway.preparing import GenerationRequest
from gateway.records import record
from gateway.upstream.push import Pushed

MOST: Final = 512
MOST_BYTES: Final = 1024


class Form(Protocol):
    """What requests to an engine have in common that differ in their text alone."""

    def push(self, url: str, inputs: str, *, tokens: bool, raw: bool) -> Pushed: ...


@record
class Settled:
    """Nothing of it is to be changed. ``stop``: the strings that end a turn."""

    parameters: dict[str, Any]
    stop: tuple[str, ...]
    form: Form


class SettledBook:
    """All that are remembered."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Settled] = {}

    def key(self, spec: ModelSpec, asked: GenerationRequest, said: bytes | None) -> Hashable:
        """Under what those of a request, as JSON ``said``, are kept; None for such as are not."""
        if said is None or len(said) > MOST_BYTES:
            return None
        return spec.id, asked.scenario, asked.stream, asked.without, said

    def find(self, key: Hashable) -> Settled | None:
        return None if key is None else self._known.get(key)

    def keep(self, key: Hashable, settled: Settled) -> None:
        if key is None:
            return
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[key] = settled


def said(parameters: Mapping[str, Any]) -> bytes | None:
    """Parameters as JSON; None where that cannot hold them."""
    try:
        return to_json(parameters)
    except (PydanticSerializationError, UnicodeError):
        return None
