"""What comes back up from the straight line: the wait, the answer, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.scheduler import Outlook
from gateway.schemas import FinishReason, ToolCall
from gateway.tickets import Progress


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where the time of one request went, in milliseconds. The parts add up to the total.

    queue: for a turn, until another model has handed over; load: until the model was in; prefill: from
    sending the prompt to the first token; decode: from the first token to the last; gateway: the rest.
    """

    queue_ms: float
    load_ms: float
    prefill_ms: float
    decode_ms: float
    gateway_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    model_id: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int | None
    completion_tokens: int
    seed: int | None
    receipt: Receipt
    details: Mapping[str, Any] | None = None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiting:
    """A stream is still waiting for its turn or for its model."""

    model_id: str
    outlook: Outlook
    waited_s: float
    progress: Progress | None

    def is_news_after(self, said: Waiting, silence_s: float) -> bool:
        """Whether it differs from what was said last, or that was ``silence_s`` ago."""
        before, now = said.outlook, self.outlook
        same = (now.phase, now.position, self.progress) == (before.phase, before.position, said.progress)
        # A request that asks for a place once more begins its wait anew.
        return not same or not 0.0 <= self.waited_s - said.waited_s < silence_s
