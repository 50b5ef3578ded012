"""What the server asks of a backend, and how a backend says no."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from gateway.wire.tgi import FinishReason, GenerateParameters


class EngineError(Exception):
    """A refusal or failure with the status and the words that TGI uses for it."""

    status: ClassVar[int] = 500
    error_type: ClassVar[str] = "incomplete_generation"
    metric: ClassVar[str] = "incomplete"
    prefix: ClassVar[str] = ""

    @property
    def sentence(self) -> str:
        return f"{self.prefix}{self}"


class Refused(EngineError):
    """The request breaks a rule; nothing was generated."""

    status = 422
    error_type = "validation"
    metric = "validation"
    prefix = "Input validation error: "


class Overloaded(EngineError):
    status = 429
    error_type = "overloaded"
    metric = "overloaded"

    def __init__(self) -> None:
        super().__init__("Model is overloaded")


class TemplateMissing(EngineError):
    status = 422
    error_type = "template_error"
    metric = "template"
    prefix = "Template error: "


class ToolRefused(EngineError):
    """Tools and the choice among them do not fit together."""

    status = 422
    error_type = "tool_error"
    metric = "validation"
    prefix = "Tool error: "


class GenerationFailed(EngineError):
    """The engine failed before or during a generation."""

    status = 424
    error_type = "generation"
    metric = "generation"
    prefix = "Request failed during generation: Server error: "


class LoadFailed(Exception):
    """The backend cannot be made ready. The text is for the person who started the engine."""


@dataclass(frozen=True, slots=True)
class PromptToken:
    """One token of a prompt; ``start`` and ``stop`` are character offsets into it."""

    id: int
    text: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Job:
    """One generation that passed every check. ``seed`` is None when greedy, else set.

    ``schema`` is what the text has to follow for the engine's own purposes, beside any grammar.
    """

    inputs: str
    tokens: tuple[PromptToken, ...]
    max_new_tokens: int
    seed: int | None
    parameters: GenerateParameters
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What came of one engine step; the one with ``finish`` is the last.

    ``index`` is the number of tokens generated so far. It can jump by more than one where the engine held
    tokens back, so it, and not the number of steps, is the count.
    """

    index: int
    id: int
    text: str
    logprob: float | None
    special: bool = False
    top: Sequence[Mapping[str, Any]] | None = None
    finish: FinishReason | None = None


class Backend(Protocol):
    """An engine. ``load`` comes first and once; ``close`` last."""

    compute_type: str

    async def load(self) -> None:
        """Make ready. Raises LoadFailed."""

    async def close(self) -> None:
        """Free everything. Leaves no process."""

    def healthy(self) -> bool:
        """Whether a generation can start now."""

    async def encode(self, text: str) -> Sequence[PromptToken]:
        """The tokens of a prompt, special tokens added. Raises GenerationFailed."""

    async def render_chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The model's own chat template applied. Raises TemplateMissing, GenerationFailed."""

    def refusal(self, parameters: GenerateParameters) -> str | None:
        """Why this backend cannot do what is asked, or None."""

    def generate(self, job: Job) -> AsyncGenerator[Step]:
        """Generate; closing the generator ends the work. Raises Refused (before a step), GenerationFailed."""
