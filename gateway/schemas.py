"""Our own vocabulary, between the dialects at the edge and the engines below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gateway.records import record

Role = Literal["system", "user", "assistant"]
TurnRole = Literal["system", "user", "assistant", "tool"]
Language = Literal["en", "zh"]
FinishReason = Literal["length", "eos_token", "stop_sequence", "tool_calls"]  # TGI's words, and one more


@record
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@record
class Prompt:
    """What an engine is sent: rendered text, and the strings that end a turn in that model's family."""

    text: str
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may ask to be called. ``parameters`` is the JSON schema of its arguments."""

    name: str
    parameters: Mapping[str, Any]
    description: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A whole call. ``arguments`` is JSON as the model wrote it, which may not be valid."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of the call at ``index``. ``id`` and ``name`` are in the first piece of a call alone."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """One turn of a conversation with tools: what was called, or (``tool_call_id``) what a call gave."""

    role: TurnRole
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


ToolMode = Literal["none", "auto", "required"]


@dataclass(frozen=True, slots=True)
class Conversation:
    """What an engine's own chat route is sent, where the engine renders the prompt.

    ``only`` names the one tool that has to be called; ``mode`` is then ``required``. ``parallel`` False
    allows one call at most. How to sample, and the form of the answer, are parameters, as with a Prompt.
    """

    turns: tuple[ChatTurn, ...]
    tools: tuple[Tool, ...] = ()
    mode: ToolMode = "auto"
    only: str | None = None
    parallel: bool | None = None

    @property
    def text(self) -> str:
        """Everything that people and tools said in it."""
        return "\n".join(turn.content for turn in self.turns)


@record
class Token:
    """One generated token. ``text`` can be empty while a multi-byte character is incomplete.

    ``last`` is set by engines that say with a token that it is the answer's last one; ``top`` are the
    likeliest tokens at its place, where they were asked for. ``call`` is set, and ``text`` empty, where it is
    a piece of a tool call.
    """

    text: str
    id: int | None
    logprob: float | None
    special: bool
    last: bool = False
    top: tuple[Token, ...] | None = None
    call: ToolCallDelta | None = None


@record
class RawTokens:
    """Tokens in the middle of an answer, as the server-sent events of TGI in which the engine wrote them."""

    events: bytes
    count: int


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """One token of a prompt, and the characters from ``start`` up to ``stop`` that it covers."""

    id: int
    text: str
    start: int
    stop: int


@record
class Completed:
    """The end of a generation. ``prompt_tokens`` is None when the engine does not say."""

    text: str
    finish_reason: FinishReason
    completion_tokens: int
    prompt_tokens: int | None
    seed: int | None
    details: Mapping[str, Any] | None = None
    tool_calls: tuple[ToolCall, ...] = ()


Piece = Token | RawTokens | Completed
"""What a stream of an engine consists of."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """The four time-outs of one upstream call, in seconds. Each has its own error."""

    connect_s: float
    first_token_s: float
    between_tokens_s: float
    total_s: float
