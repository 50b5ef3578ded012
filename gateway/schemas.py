"""Our own vocabulary, between the dialects at the edge and the engines below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]
Language = Literal["en", "zh"]
FinishReason = Literal["length", "eos_token", "stop_sequence"]  # TGI's words


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an engine is sent: rendered text, and the strings that end a turn in that model's family."""

    text: str
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token. ``text`` can be empty while a multi-byte character is incomplete.

    ``last`` is set by engines that say with a token that it is the answer's last one; ``top`` are the
    likeliest tokens at its place, where they were asked for.
    """

    text: str
    id: int | None
    logprob: float | None
    special: bool
    last: bool = False
    top: tuple[Token, ...] | None = None


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Completed:
    """The end of a generation. ``prompt_tokens`` is None when the engine does not say."""

    text: str
    finish_reason: FinishReason
    completion_tokens: int
    prompt_tokens: int | None
    seed: int | None
    details: Mapping[str, Any] | None = None


Piece = Token | RawTokens | Completed
"""What a stream of an engine consists of."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """The four time-outs of one upstream call, in seconds. Each has its own error."""

    connect_s: float
    first_token_s: float
    between_tokens_s: float
    total_s: float
