"""What a model can do, and a clear refusal of what it cannot.

The registry's word counts; where it has none, what the engine is known to do. What nobody knows is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from gateway.config import Capabilities, ModelSpec
from gateway.errors import NotSupported
from gateway.schemas import Conversation

NAMES: Final = tuple(Capabilities.model_fields)
_WHAT: Final[Mapping[str, str]] = {
    "grammar": "follow a grammar",
    "tools": "call tools",
    "tokenise": "say how it splits a text",
    "logprobs": "give log probabilities",
    "seed": "repeat an answer by its seed",
}


_ASKING: Final = frozenset({"grammar", "seed", "top_n_tokens"})
"""Parameters that not every engine has."""


class Wanting(Protocol):
    """What a request is, as far as it matters here."""

    @property
    def conversation(self) -> Conversation | None: ...
    @property
    def parameters(self) -> Mapping[str, Any]: ...
    @property
    def logprobs(self) -> bool: ...


Able = Callable[[ModelSpec], Mapping[str, bool | None]]
"""What a model can do, as ``of`` has it."""


def of(spec: ModelSpec, known: Mapping[str, bool]) -> dict[str, bool | None]:
    """Each capability of a model: true, false, or None where nobody knows. ``known`` is its engine's."""
    declared = spec.capabilities.model_dump(exclude_none=True)
    return {name: declared.get(name, known.get(name)) for name in NAMES}


def wanted_by(request: Wanting) -> dict[str, str]:
    """The capabilities that a request needs, and the field that asks for each."""
    given, said = request.parameters, request.conversation
    wanted = {
        "tools": "tools" if said is not None and said.tools else None,
        "grammar": "parameters.grammar" if given.get("grammar") else None,
        "seed": "parameters.seed" if given.get("seed") is not None else None,
        "logprobs": "logprobs" if request.logprobs else None,
    }
    if given.get("top_n_tokens"):
        wanted["logprobs"] = "parameters.top_n_tokens"
    return {name: field for name, field in wanted.items() if field is not None}


def check(spec: ModelSpec, request: Wanting, able: Able) -> None:
    """Raise NotSupported for the first thing that ``request`` wants and the model is not ``able`` to do."""
    if request.conversation is None and not request.logprobs and _ASKING.isdisjoint(request.parameters):
        return
    wanted = wanted_by(request)
    refused = next((name for name in wanted if able(spec)[name] is False), None)
    if refused is not None:
        field = wanted[refused]
        raise NotSupported(
            f"{field} cannot be used with {spec.id}: its engine does not {_WHAT[refused]}.",
            field=field,
            hint="Leave it out, or ask another model: GET /v1/models says what each can do.",
        )
