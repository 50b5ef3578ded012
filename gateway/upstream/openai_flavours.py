"""The programs behind OpenAI's ``/v1/completions``: what each of them takes beyond OpenAI, and by which name.

A parameter that is not in an engine's row is refused before anything is generated, never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from gateway.errors import InvalidRequest

OPENAI_FIELDS: Final[Mapping[str, str]] = {
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
}
"""Our parameters by the names that every engine of this kind knows."""
OWN: Final = frozenset({"do_sample", "stop", "details", "return_full_text"})
"""Parameters that are done here, whatever the engine."""
_OFF: Final[Mapping[str, object]] = {
    "best_of": 1,
    "watermark": False,
    "decoder_input_details": False,
    "top_n_tokens": 0,
    "repetition_penalty": 1.0,
}
"""Values that ask for nothing."""
_WITH_USAGE: Final = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}


@dataclass(frozen=True, slots=True)
class Flavour:
    """One program. ``fields`` are our parameters by its own names."""

    name: str
    fields: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    """Sent where the request says nothing: the engine's own defaults are not TGI's."""
    extras: Mapping[str, object] = field(default_factory=dict)
    logprobs: int | None = 0
    """The least to ask for that brings the log probability of the token itself; None: it has none."""
    unlimited: bool = False
    """Whether it generates as much as it has room for when ``max_tokens`` is left out."""
    seeds: int = 2**63
    """Seeds are taken modulo this."""
    counts: bool = True
    spans: bool = False
    """Whether it says which part of a text each token is."""
    grammar: Literal["json_schema", "response_format"] | None = None
    """The field that takes a JSON schema."""
    tools: bool = True
    """Whether its chat route takes tools, as far as the program goes; the model's template must know them."""
    chooses: bool = True
    """Whether it obeys ``tool_choice``."""
    names_tool: bool = True
    """Whether ``tool_choice`` may name a tool; where it may not, that tool alone is offered."""
    logprobs_with_tools: bool = True
    """Whether its chat route gives log probabilities beside tools."""
    forms_with_tools: bool = False
    """Whether it takes a JSON schema for the answer beside tools."""

    def takes(self, name: str) -> bool:
        return name in OWN or name in OPENAI_FIELDS or name in self.fields or self._is_grammar(name)

    def _is_grammar(self, name: str) -> bool:
        return name == "grammar" and self.grammar is not None


LLAMA_CPP: Final = Flavour(
    "llama.cpp",
    fields={
        "top_k": "top_k",
        "typical_p": "typical_p",
        "repetition_penalty": "repeat_penalty",
        "top_n_tokens": "logprobs",
    },
    defaults={"top_k": 0, "min_p": 0, "typical_p": 1.0, "repeat_penalty": 1.0},
    # TGI's order: penalties, temperature, then the three cuts.
    extras={
        "samplers": ["penalties", "temperature", "top_k", "top_p", "typ_p"],
        "timings_per_token": True,
    },
    logprobs=1,
    unlimited=True,
    spans=True,
    seeds=2**32 - 1,  # the highest of 32 bits means "random"
    grammar="json_schema",
    names_tool=False,  # it would read a name as "auto"
    logprobs_with_tools=False,
)
VLLM: Final = Flavour(
    "vLLM",
    fields={"top_k": "top_k", "repetition_penalty": "repetition_penalty"},
    # What is left out is taken from the model's generation_config.json, which TGI does not read for this.
    defaults={"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    extras={**_WITH_USAGE, "return_token_ids": True},
    grammar="response_format",
    forms_with_tools=True,
)
SGLANG: Final = Flavour(
    "SGLang",
    fields={"top_k": "top_k", "repetition_penalty": "repetition_penalty"},
    defaults={"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    extras={**_WITH_USAGE, "return_token_ids": True},
    grammar="response_format",
    forms_with_tools=True,
)
OLLAMA: Final = Flavour("Ollama", logprobs=None, unlimited=True, counts=False, tools=False, chooses=False)
OTHER: Final = Flavour("an engine that does not say its name")

BY_OWNER: Final[Mapping[str, Flavour]] = {"llamacpp": LLAMA_CPP, "vllm": VLLM, "sglang": SGLANG}
"""By ``owned_by`` in the engine's list of models. Ollama writes other things there: see ``openai_served``."""
ALL: Final = (LLAMA_CPP, VLLM, SGLANG, OLLAMA, OTHER)


def capabilities(flavour: Flavour) -> dict[str, bool]:
    """What a program can do, by the names of ``config.Capabilities``."""
    return {
        "grammar": flavour.grammar is not None,
        "tools": flavour.tools,
        "tokenise": flavour.spans,
        "logprobs": flavour.logprobs is not None,
        "seed": True,
    }


def check(parameters: Mapping[str, Any], flavour: Flavour | None = None) -> None:
    """Raise InvalidRequest for what ``flavour`` cannot do; without one, for what none of them can."""
    for name, value in parameters.items():
        if value is None or (name in _OFF and value == _OFF[name]):
            continue
        able = [one for one in ALL if one.takes(name)]
        if flavour is None and not able:
            raise _unable(name, "openai", "a model whose engine kind is tgi")
        if flavour is not None and flavour not in able:
            others = ", ".join(one.name for one in able)
            raise _unable(name, f"openai ({flavour.name})", f"a model on {others} or on tgi")


def _unable(name: str, kind: str, others: str) -> InvalidRequest:
    return InvalidRequest(
        f"parameters.{name} cannot be used with this model: its engine, of kind {kind}, has no such thing",
        field=f"parameters.{name}",
        hint=f"Leave it out, or ask {others}.",
    )
