"""What comes back up from the straight line: the wait, the answer, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.records import record
from gateway.routing import DIRECT, Origin
from gateway.scheduler import Outlook
from gateway.schemas import FinishReason, ToolCall
from gateway.tickets import Progress


@record
class Receipt:
    """Where the time of one request went, in whole microseconds. So the parts really add up to the total.

    queue: for a turn, until another model has handed over; load: until the model was in; prefill: from
    sending the prompt to the first token; decode: from the first token to the last; gateway: the rest.
    """

    queue_us: int
    load_us: int
    prefill_us: int
    decode_us: int
    gateway_us: int
    total_us: int

    @classmethod
    def of(
        cls, *, queue_s: float, load_s: float, prefill_s: float, decode_s: float, total_s: float
    ) -> Receipt:
        """The receipt for what was measured, in seconds; the gateway's own part is what remains."""
        # round() costs ten times as much.
        queue, load, prefill = int(1e6 * queue_s + 0.5), int(1e6 * load_s + 0.5), int(1e6 * prefill_s + 0.5)
        decode, total = int(1e6 * decode_s + 0.5), int(1e6 * total_s + 0.5)
        rest = max(0, total - queue - load - prefill - decode)
        return cls(queue, load, prefill, decode, rest, total)

    @property
    def load_ms(self) -> float:
        return self.load_us / 1000

    @property
    def prefill_ms(self) -> float:
        return self.prefill_us / 1000

    @property
    def decode_ms(self) -> float:
        return self.decode_us / 1000

    @property
    def total_ms(self) -> float:
        return self.total_us / 1000


@record
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
    origin: Origin = DIRECT
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiting:
    """A stream is still waiting for its turn or for its model.

    With ``fell_back`` it says first of all that this model answers now, instead of another one.
    """

    model_id: str
    outlook: Outlook
    waited_s: float
    progress: Progress | None
    fell_back: Origin | None = None

    def is_news_after(self, said: Waiting, silence_s: float) -> bool:
        """Whether it differs from what was said last, or that was ``silence_s`` ago."""
        before, now = said.outlook, self.outlook
        same = (now.phase, now.position, self.progress) == (before.phase, before.position, said.progress)
        # A request that asks for a place once more begins its wait anew.
        return not same or not 0.0 <= self.waited_s - said.waited_s < silence_s
