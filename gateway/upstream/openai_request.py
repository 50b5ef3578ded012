"""A request as an engine behind OpenAI's ``/v1/completions`` gets it, with TGI's meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import InvalidRequest
from gateway.parameters import samples
from gateway.schemas import Prompt
from gateway.upstream.openai_flavours import OPENAI_FIELDS, Flavour
from gateway.wire.grammars import closed, schema_of, schema_refusal

UNKNOWN_ROOM_TOKENS: Final = 1024
"""How much is asked for when nobody says a length and nobody knows how much room there is."""


@dataclass(frozen=True, slots=True)
class Served:
    """What answers at an address: the program, its name for the model, and how many tokens fit in."""

    flavour: Flavour
    model: str | None
    context_tokens: int | None
    card: Mapping[str, Any]
    tools: bool | None = None
    """Whether the chat template of the model knows tools; None where the engine does not say."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and what of it is done on this side."""

    prompt: Prompt
    parameters: Mapping[str, Any]
    own_stops: tuple[str, ...]

    @classmethod
    def of(cls, prompt: Prompt, parameters: Mapping[str, object]) -> Asked:
        given = {name: value for name, value in parameters.items() if value is not None}
        stop = given.get("stop")
        own = tuple(str(one) for one in stop) if isinstance(stop, list | tuple) else ()
        return cls(prompt, given, own)

    @property
    def limit(self) -> int | None:
        limit = self.parameters.get("max_new_tokens")
        return limit if isinstance(limit, int) else None

    @property
    def top(self) -> int:
        return int(self.parameters.get("top_n_tokens") or 0)

    @property
    def seed(self) -> int | None:
        """What to report: TGI says a seed only when it draws."""
        seed = self.parameters.get("seed")
        return seed if isinstance(seed, int) and samples(self.parameters) else None

    def whole(self, text: str) -> str:
        return self.prompt.text + text if self.parameters.get("return_full_text") else text

    def schema(self) -> Any:
        """The JSON schema that the answer has to follow, or None. Raises InvalidRequest."""
        grammar = self.parameters.get("grammar")
        if not isinstance(grammar, dict):
            return None
        if grammar["type"] == "regex":
            raise _bad_grammar("a regex cannot be used with an engine of kind openai", "Use a JSON schema.")
        try:
            schema = schema_of(grammar["type"], grammar["value"])
        except ValueError as error:
            raise _bad_grammar(f"grammar is not valid: {error}", None) from None
        if reason := schema_refusal(schema):
            raise _bad_grammar(reason, None)
        return {"type": "object", **closed(schema)}

    def body(self, served: Served, *, max_tokens: int | None, logprobs: bool) -> dict[str, object]:
        """For ``/v1/completions``. ``max_tokens`` None leaves the length to the engine."""
        flavour = served.flavour
        body: dict[str, object] = {
            "prompt": self.prompt.text,
            "stream": True,
            "stream_options": {"include_usage": True},
            **flavour.defaults,
            **flavour.extras,
            **self._values(flavour),
        }
        if served.model is not None:
            body["model"] = served.model
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        # One's own stop strings are looked for here: engines cut them off, and few say which it was.
        if stops := [stop for stop in self.prompt.stop if stop not in self.own_stops]:
            body["stop"] = stops
        if logprobs and flavour.logprobs is not None:
            body["logprobs"] = max(flavour.logprobs, self.top)
        if flavour.name == "llama.cpp" and served.context_tokens:
            body["repeat_last_n"] = served.context_tokens  # the whole context, as in TGI
        return body | self._grammar(flavour)

    def _values(self, flavour: Flavour) -> dict[str, object]:
        names = {**OPENAI_FIELDS, **flavour.fields}
        held_back = {"max_new_tokens", "top_n_tokens"}
        values: dict[str, object] = {
            names[name]: value
            for name, value in self.parameters.items()
            if name in names and name not in held_back
        }
        if "seed" in values:
            values["seed"] = self.parameters["seed"] % flavour.seeds
        if not samples(self.parameters):
            return {**values, "temperature": 0}
        return {"temperature": 1.0, "top_p": 1.0, **values}

    def _grammar(self, flavour: Flavour) -> dict[str, object]:
        schema = self.schema()
        if schema is None or flavour.grammar is None:
            return {}
        if flavour.grammar == "json_schema":
            return {"json_schema": schema}
        wrapped = {"name": "grammar", "schema": schema}
        return {"response_format": {"type": "json_schema", "json_schema": wrapped}}


def _bad_grammar(reason: str, hint: str | None) -> InvalidRequest:
    return InvalidRequest(f"parameters.grammar: {reason}", field="parameters.grammar", hint=hint)
