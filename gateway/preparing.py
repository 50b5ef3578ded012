"""What every dialect asks of the line, and how it becomes a prompt. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway import parameters as rules
from gateway.config import ModelSpec
from gateway.routing import Who
from gateway.scenarios import ScenarioBook, messages_for
from gateway.schemas import Language, Message, Prompt
from gateway.templates import family, render


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What every dialect turns its body into.

    Either ``inputs`` (through a scenario) or ``messages`` (a conversation). ``started`` is the instant,
    on the monotonic clock, at which the request reached the gateway. ``who`` is who answers, where that
    is decided; otherwise ``model``, a name or None, decides.
    """

    model: str | None
    inputs: str | None
    messages: tuple[Message, ...] | None
    parameters: Mapping[str, Any]
    started: float
    scenario: str | None = None
    language: Language | None = None
    allow_special_tokens: bool = False
    template_args: Mapping[str, str] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    stream: bool = False
    wait_s: float | None = None
    without: frozenset[str] = frozenset()
    """Parameters that are off, whatever the defaults of model and scenario say."""
    who: Who | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that has passed every check that needs no engine."""

    spec: ModelSpec
    prompt: Prompt
    parameters: dict[str, Any]


def prepare(request: GenerationRequest, spec: ModelSpec, scenarios: ScenarioBook) -> Prepared:
    """Everything that can be refused without an engine. Raises InvalidRequest."""
    scenario = scenarios.get(request.scenario)
    own = spec.parameters.model_dump(exclude_none=True)
    # The operator's word for this very model counts for more than a default that is meant for all.
    merged = rules.combine(scenario.parameters, own, request.parameters)
    merged = {name: value for name, value in merged.items() if name not in request.without}
    rules.check_together(merged, stream=request.stream)
    if request.messages is None and scenario.is_raw:
        return Prepared(spec, Prompt(request.inputs or ""), merged)
    messages = request.messages or messages_for(scenario, request.inputs or "", request.language)
    prompt = render(
        family(spec.family),
        messages,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        allow_special_tokens=request.allow_special_tokens,
        template_args=request.template_args,
    )
    return Prepared(spec, prompt, merged)
