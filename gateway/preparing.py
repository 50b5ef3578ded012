"""What every dialect asks of the line, and how it becomes a prompt. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from gateway import capabilities
from gateway import parameters as rules
from gateway.config import ModelSpec
from gateway.records import record
from gateway.routing import Who
from gateway.scenarios import Scenario, ScenarioBook, messages_for
from gateway.schemas import Conversation, Language, Message, Prompt
from gateway.templates import family, harmless, render
from gateway.tickets import Begun


@record
class GenerationRequest:
    """What every dialect turns its body into.

    Either ``inputs`` (through a scenario), or ``messages``, or a ``conversation``, which the engine's own
    chat route renders. ``started`` is the instant, on the monotonic clock, at which the request came.
    ``who`` is who answers, where that is decided; otherwise ``model``, a name or None, decides.
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
    raw: bool = False
    """TGI's own bytes are welcome in a stream, where the engine writes them."""
    wait_s: float | None = None
    without: frozenset[str] = frozenset()
    """Parameters that are off, whatever the defaults of model and scenario say."""
    who: Who | None = None
    conversation: Conversation | None = None
    begun: Begun | None = None
    """What has been done for it already."""
    logprobs: bool = False
    """Whether the log probabilities of tokens are wanted."""


@record
class Prepared:
    """A request that has passed every check that needs no engine."""

    spec: ModelSpec
    prompt: Prompt | Conversation
    parameters: dict[str, Any]

    @property
    def stop(self) -> tuple[str, ...]:
        """The strings that end a turn, where the prompt was rendered here."""
        return self.prompt.stop if isinstance(self.prompt, Prompt) else ()


class Preparer:
    """Prepares requests for models that are known."""

    def __init__(self, scenarios: ScenarioBook, able: capabilities.Able) -> None:
        self._scenarios = scenarios
        self._able = able

    def prepare(
        self, spec: ModelSpec, request: GenerationRequest, known: dict[str, Any] | None = None
    ) -> Prepared:
        """Everything that can be refused without an engine. Raises InvalidRequest and NotSupported.

        ``known``: see the function.
        """
        capabilities.check(spec, request, self._able)
        return prepare(request, spec, self._scenarios, known)


def prepare(
    request: GenerationRequest,
    spec: ModelSpec,
    scenarios: ScenarioBook,
    known: dict[str, Any] | None = None,
) -> Prepared:
    """Everything that can be refused without an engine. Raises InvalidRequest.

    ``known``: its parameters as they were prepared for a request with the same ones, scenario and way.
    """
    scenario = scenarios.get(request.scenario)
    if request.conversation is not None:
        return _chat(request, request.conversation, spec, scenarios)
    merged = _merged(request, spec, scenario) if known is None else known
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


def _merged(request: GenerationRequest, spec: ModelSpec, scenario: Scenario) -> dict[str, Any]:
    # The operator's word for this very model counts for more than a default that is meant for all.
    merged = rules.combine(scenario.parameters, spec.own_parameters, request.parameters)
    for name in request.without:
        merged.pop(name, None)
    rules.check_together(merged, stream=request.stream)
    return merged


def _chat(
    request: GenerationRequest, said: Conversation, spec: ModelSpec, scenarios: ScenarioBook
) -> Prepared:
    """As ``prepare``, for an engine's chat route: that takes fewer parameters."""
    defaults = (scenarios.get(request.scenario).parameters, spec.parameters.model_dump())
    merged = rules.combine(*map(rules.for_chat, defaults), request.parameters)
    merged = {name: value for name, value in merged.items() if name not in request.without}
    said = said if request.allow_special_tokens else harmless(family(spec.family), said)
    return Prepared(spec, said, merged)
