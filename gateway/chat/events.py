"""What the native API says, as values: pieces of text, news while waiting, the end, and failures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

WaitingKind = Literal["queued", "draining", "loading", "ready"]
WAITING_KINDS: Final[tuple[WaitingKind, ...]] = ("queued", "draining", "loading", "ready")

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one token; empty while a character is incomplete."""

    text: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """Where a request stands before its model can answer. None is what the gateway does not know."""

    kind: WaitingKind
    model_id: str
    position: int | None = None
    phase: str | None = None
    progress: float | None = None
    eta_s: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of an answer: its whole text, and where its time went. None is what was not said."""

    model_id: str
    text: str
    finish_reason: str
    completion_tokens: int | None
    queue_ms: float
    load_ms: float
    prefill_ms: float | None
    decode_ms: float | None

    @property
    def first_token_s(self) -> float | None:
        """From the request's arrival to the first token, waiting and loading included."""
        return None if self.prefill_ms is None else (self.queue_ms + self.load_ms + self.prefill_ms) / 1000

    @property
    def tokens_per_s(self) -> float | None:
        """Speed between the first token and the last; None where it cannot be told."""
        if not self.decode_ms or not self.completion_tokens or self.completion_tokens < 2:
            return None
        return (self.completion_tokens - 1) / (self.decode_ms / 1000)


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of the gateway's list of models."""

    id: str
    state: str
    aliases: tuple[str, ...] = ()
    default: bool = False
    memory_bytes: int | None = None
    waiting: int = 0
    in_flight: int = 0
    last_load_s: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario and its description by language."""

    id: str
    description: Mapping[str, str]


class ChatFailure(Exception):
    """Base of what can go wrong between the chat and an answer; carries facts, never sentences."""


class Unreachable(ChatFailure):
    """No connection could be made."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url = url
        self.reason = reason


class Silent(ChatFailure):
    """The gateway took the request and sent nothing for ``silence_s`` seconds."""

    def __init__(self, url: str, silence_s: float) -> None:
        super().__init__(url, silence_s)
        self.url = url
        self.silence_s = silence_s


class NotAGateway(ChatFailure):
    """Something answered, but not in the gateway's words."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(url, status)
        self.url = url
        self.status = status


class Lost(ChatFailure):
    """The connection ended before the answer did."""


class Refused(ChatFailure):
    """The gateway's own error envelope."""

    def __init__(self, error: Json) -> None:
        super().__init__(error)
        self.message = str(error.get("message") or error.get("type") or "?")
        self.type = str(error.get("type", ""))
        self.hint = _text(error.get("hint"))
        self.field = _text(error.get("field"))
        self.request_id = _text(error.get("request_id"))
        self.retry_after_s = _number(error.get("retry_after_s"))


def parse_waiting(kind: str, data: Json) -> Waiting:
    position = _number(data.get("position"))
    return Waiting(
        kind=cast("WaitingKind", kind),
        model_id=str(data.get("model_id", "")),
        position=None if position is None else int(position),
        phase=_text(data.get("phase")),
        progress=_number(data.get("progress")),
        eta_s=_number(data.get("eta_s")),
    )


def parse_answer(data: Json) -> Answer:
    usage, receipt = _mapping(data.get("usage")), _mapping(data.get("receipt"))
    tokens = _number(usage.get("completion_tokens"))
    return Answer(
        model_id=str(data.get("model_id", "")),
        text=str(data.get("generated_text", "")),
        finish_reason=str(data.get("finish_reason", "")),
        completion_tokens=None if tokens is None else int(tokens),
        queue_ms=_number(receipt.get("queue_ms")) or 0.0,
        load_ms=_number(receipt.get("load_ms")) or 0.0,
        prefill_ms=_number(receipt.get("prefill_ms")),
        decode_ms=_number(receipt.get("decode_ms")),
    )


def parse_model(entry: Json) -> Model:
    memory = _number(entry.get("memory_bytes"))
    return Model(
        id=str(entry.get("id", "")),
        state=str(entry.get("state", "")),
        aliases=tuple(str(alias) for alias in entry.get("aliases") or ()),
        default=entry.get("default") is True,
        memory_bytes=None if memory is None else int(memory),
        waiting=int(_number(entry.get("waiting")) or 0),
        in_flight=int(_number(entry.get("in_flight")) or 0),
        last_load_s=_number(entry.get("last_load_s")),
        reason=_text(entry.get("reason")),
    )


def parse_scenario(entry: Json) -> Scenario:
    description = _mapping(entry.get("description"))
    return Scenario(str(entry.get("id", "")), {str(key): str(value) for key, value in description.items()})


def _mapping(value: object) -> Json:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
