"""What answers look like, for the OpenAPI page: nothing is validated by these on the way out.

That they are true is tested with generated requests. Errors come in four shapes, one for each dialect.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, RootModel

from gateway.api.receipts import ReceiptBody
from gateway.config import Limits
from gateway.schemas import FinishReason
from gateway.switching.vocabulary import State

# ---------------------------------------------------------------- native


class ErrorDetail(BaseModel):
    """What was wrong, where, and what to do about it. Fields that say nothing are left out."""

    type: str
    status: int
    message: str
    field: str | None = None
    hint: str | None = None
    retry_after_s: float | None = None
    request_id: str


class Error(BaseModel):
    """Something went wrong."""

    error: ErrorDetail


class ScenarioCard(BaseModel):
    """One scenario."""

    id: str
    description: dict[str, str | None]
    languages: list[str]
    system: dict[str, str | None]
    user: dict[str, str | None]
    parameters: dict[str, Any]


class Scenarios(BaseModel):
    """All scenarios."""

    object: Literal["list"]
    data: list[ScenarioCard]


class Progress(BaseModel):
    """How far a start is."""

    phase: str
    fraction: float | None


class ModelCard(BaseModel):
    """One model and its state: OpenAI's fields, and ours."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    name: str
    family: str
    engine: str
    languages: list[str]
    aliases: list[str]
    default: bool
    state: State
    since: float
    waiting: int
    in_flight: int
    last_load_s: float | None
    memory_bytes: int | None
    limits: Limits
    reason: str = Field("", description="why it is in this state; left out where there is nothing to say")
    progress: Progress | None = Field(None, description="only during a start")


class Models(BaseModel):
    """All models."""

    object: Literal["list"]
    data: list[ModelCard]


class Alive(BaseModel):
    """The process lives."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether a model can answer, and the state of each."""

    ready: bool
    models: dict[str, State]


# ---------------------------------------------------------------- OpenAI


class OpenAIErrorDetail(BaseModel):
    """OpenAI's fields, and ours."""

    message: str
    type: str
    param: str | None
    code: str | None
    hint: str | None = None
    retry_after_s: float | None = None
    request_id: str


class OpenAIError(BaseModel):
    """Something went wrong."""

    error: OpenAIErrorDetail


class TokenCounts(BaseModel):
    """How many tokens were read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatReplyMessage(BaseModel):
    """The model's turn."""

    role: Literal["assistant"]
    content: str | None


class ChatChoice(BaseModel):
    """One answer of several."""

    index: int
    message: ChatReplyMessage
    logprobs: dict[str, Any] | None
    finish_reason: str


class TextChoice(BaseModel):
    """One continuation of several."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: str


class _Completion(BaseModel):
    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: TokenCounts | None = Field(description="null where the engine does not count the prompt")
    receipt: ReceiptBody


class ChatCompletion(_Completion):
    """A whole answer of chat."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextCompletion(_Completion):
    """A whole answer of a completion."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


# ---------------------------------------------------------------- Anthropic


class AnthropicErrorDetail(BaseModel):
    """The kind of the failure, and a sentence."""

    type: str
    message: str


class AnthropicError(BaseModel):
    """Something went wrong."""

    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str


class InputTokens(BaseModel):
    """How many tokens a conversation is."""

    input_tokens: int


class MessageUsage(InputTokens):
    """How many tokens were read and written."""

    output_tokens: int


class AnthropicMessage(BaseModel):
    """A whole answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str
    stop_sequence: str | None
    usage: MessageUsage


# ---------------------------------------------------------------- TGI


class TgiError(BaseModel):
    """Something went wrong."""

    error: str
    error_type: str


class TgiToken(BaseModel):
    """One token."""

    id: int
    text: str
    logprob: float | None
    special: bool


class TgiDetails(BaseModel):
    """How an answer came about."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    prefill: list[dict[str, Any]]
    tokens: list[TgiToken]
    top_tokens: list[list[TgiToken]] = Field([], description="only with top_n_tokens")
    best_of_sequences: list[dict[str, Any]] = Field([], description="only with best_of")


class TgiAnswer(BaseModel):
    """A whole answer."""

    generated_text: str
    details: TgiDetails | None = Field(None, description="only where they were asked for")


class TgiAnswers(RootModel[list[TgiAnswer]]):
    """A list of one."""


class TgiTokenSpan(BaseModel):
    """One token of a text, and the characters that it covers."""

    id: int
    text: str
    start: int
    stop: int


class TgiTokens(RootModel[list[TgiTokenSpan]]):
    """The tokens of a text."""


class TgiChatTokens(BaseModel):
    """A conversation as the prompt that the model gets, and its tokens."""

    tokenize_response: list[TgiTokenSpan]
    templated_text: str


class TgiInfo(BaseModel):
    """What a model takes."""

    model_id: str
    model_sha: str | None
    model_pipeline_tag: str | None
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int | None
    max_total_tokens: int | None
    validation_workers: int
    max_client_batch_size: int
    router: str
    version: str
    sha: str | None
    docker_label: str | None
