"""What every dialect says about how a request went: the receipt, and how a wait is going."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from gateway.aliases import NO_ARM
from gateway.answers import Answer, Receipt, Waiting
from gateway.api.receipt_lines import headers_in, time_lines
from gateway.routing import DIRECT, Origin
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
    return {
        "queue_ms": receipt.queue_us / 1000,
        "load_ms": receipt.load_us / 1000,
        "prefill_ms": receipt.prefill_us / 1000,
        "decode_ms": receipt.decode_us / 1000,
        "gateway_ms": receipt.gateway_us / 1000,
        "total_ms": receipt.total_us / 1000,
    }


def origin_body(origin: Origin) -> dict[str, str]:
    """How it came about that this model answers, as JSON; nothing when it was asked for by name."""
    if origin is DIRECT:
        return {}
    fields = {
        "alias": origin.alias,
        "arm": None if origin.arm == NO_ARM else origin.arm,
        "fallback_from": origin.fallback_from,
        "fallback_reason": origin.fallback_reason,
    }
    return {name: value for name, value in fields.items() if value is not None}


def origin_headers(model_id: str, origin: Origin) -> dict[str, str]:
    """The same as response headers, with the model: all that a stream knows when it opens."""
    if origin is DIRECT:
        return {"x-gateway-model": model_id}
    parts = origin_body(origin)
    headers = {f"x-gateway-{name.replace('_', '-')}": value for name, value in parts.items()}
    return {"x-gateway-model": model_id, **headers}


def receipt_headers(answer: Answer) -> dict[str, str]:
    """The receipt as response headers: ``x-gateway-queue-ms`` and so on, and who answered."""
    return origin_headers(answer.model_id, answer.origin) | headers_in(time_lines(answer.receipt))


def waiting_comment(waiting: Waiting) -> bytes:
    """How a wait goes, for people, as a comment of a stream: no client counts it as an answer."""
    outlook, origin = waiting.outlook, waiting.fell_back
    if origin is not None:
        return encode_comment(
            f"{waiting.model_id} answers instead of {origin.fallback_from} ({origin.fallback_reason})"
        )
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
