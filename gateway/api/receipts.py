"""What every dialect says about how a request went: the receipt, and how a wait is going."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from gateway.answers import Answer, Receipt, Waiting
from gateway.switching.vocabulary import Phase
from gateway.tickets import Progress
from gateway.wire.sse import encode_comment


class ReceiptBody(BaseModel):
    """Where the time went, in milliseconds."""

    queue_ms: float
    load_ms: float
    prefill_ms: float
    decode_ms: float
    gateway_ms: float
    total_ms: float


DOING: Mapping[Phase, str] = {
    "queued": "queued for",
    "draining": "making room for",
    "loading": "loading",
    "ready": "ready:",
}


def receipt_body(receipt: Receipt) -> dict[str, float]:
    """The receipt as JSON."""
    return {name: getattr(receipt, name) for name in ReceiptBody.model_fields}


def receipt_headers(answer: Answer) -> dict[str, str]:
    """The receipt as response headers: ``x-gateway-queue-ms`` and so on."""
    parts = receipt_body(answer.receipt).items()
    headers = {f"x-gateway-{name.replace('_', '-')}": str(value) for name, value in parts}
    return {"x-gateway-model": answer.model_id, **headers}


def waiting_comment(waiting: Waiting) -> bytes:
    """How a wait goes, for people, as a comment of a stream: no client counts it as an answer."""
    outlook = waiting.outlook
    eta = "" if outlook.eta_s is None else f", about {outlook.eta_s:.0f} s left"
    what = DOING[outlook.phase]
    return encode_comment(
        f"{what} {waiting.model_id}{_step(waiting.progress)}, position {outlook.position}{eta}"
    )


def _step(progress: Progress | None) -> str:
    if progress is None:
        return ""
    done = "" if progress.fraction is None else f" {progress.fraction:.0%}"
    return f" ({progress.phase.replace('_', ' ')}{done})"
