"""Receipts as lines of a head; apart from ``receipts`` so that it can be compiled. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.answers import Answer, Receipt

THOUSANDTHS: Final = [f".{part:03d}".rstrip("0") if part else ".0" for part in range(1000)]
"""Thousandths, as Python writes them behind a number."""


def receipt_lines(answer: Answer) -> str:
    """The receipt as ``x-gateway-queue-ms`` and so on, for an answer of who was asked by name."""
    return f"x-gateway-model: {answer.model_id}\r\n{time_lines(answer.receipt)}"


def time_lines(receipt: Receipt) -> str:
    """Its times, in milliseconds."""
    # Out of whole numbers: to write a float down costs twice as much.
    queue, load, prefill = receipt.queue_us, receipt.load_us, receipt.prefill_us
    decode, gateway, total = receipt.decode_us, receipt.gateway_us, receipt.total_us
    parts = THOUSANDTHS
    return (
        f"x-gateway-queue-ms: {queue // 1000}{parts[queue % 1000]}\r\n"
        f"x-gateway-load-ms: {load // 1000}{parts[load % 1000]}\r\n"
        f"x-gateway-prefill-ms: {prefill // 1000}{parts[prefill % 1000]}\r\n"
        f"x-gateway-decode-ms: {decode // 1000}{parts[decode % 1000]}\r\n"
        f"x-gateway-gateway-ms: {gateway // 1000}{parts[gateway % 1000]}\r\n"
        f"x-gateway-total-ms: {total // 1000}{parts[total % 1000]}\r\n"
    )


def header_lines(headers: Mapping[str, str]) -> str:
    """Headers as they stand in a head, each with its line end."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])


def headers_in(lines: str) -> dict[str, str]:
    """What ``header_lines`` was made of."""
    parted = [line.partition(": ") for line in lines.split("\r\n")[:-1]]
    return {name: value for name, _, value in parted}
