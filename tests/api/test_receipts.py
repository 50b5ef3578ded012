"""A receipt says the same in a head, in headers one by one and in a body."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.answers import Answer, Receipt
from gateway.api.receipt_lines import header_lines, receipt_lines
from gateway.api.receipts import receipt_body, receipt_headers
from gateway.api.tgi_answers import answer_headers, answer_lines
from gateway.api.tgi_bodies import TgiBody
from gateway.routing import Origin

SECONDS = st.floats(0, 1e6) | st.integers(0, 5000).map(lambda us: us / 1_000_000)
RECEIPTS = st.builds(
    Receipt.of, queue_s=SECONDS, load_s=SECONDS, prefill_s=SECONDS, decode_s=SECONDS, total_s=SECONDS
)


def answer(receipt: Receipt, tokens: int = 3, prompt_tokens: int | None = 2, **more: Origin) -> Answer:
    return Answer("qwen2", "text", "length", prompt_tokens, tokens, None, receipt, **more)


@given(receipt=RECEIPTS)
def test_headers_say_what_the_body_says(receipt: Receipt) -> None:
    said = receipt_body(receipt)
    headers = receipt_headers(answer(receipt))
    assert headers.pop("x-gateway-model") == "qwen2"
    assert headers == {f"x-gateway-{name.replace('_', '-')}": str(value) for name, value in said.items()}


@given(receipt=RECEIPTS, tokens=st.integers(0, 5), prompt_tokens=st.none() | st.integers(0, 9))
def test_lines_are_the_headers(receipt: Receipt, tokens: int, prompt_tokens: int | None) -> None:
    whole, body = answer(receipt, tokens, prompt_tokens), TgiBody(inputs="模型?")
    assert receipt_lines(whole) == header_lines(receipt_headers(whole))
    assert answer_lines(body.inputs, whole) == header_lines(answer_headers(body, whole))


@given(receipt=RECEIPTS, tokens=st.integers(0, 5))
def test_tgi_has_seconds_once_and_whole_milliseconds_otherwise(receipt: Receipt, tokens: int) -> None:
    headers = answer_headers(TgiBody(inputs="模型?"), answer(receipt, tokens))
    assert float(headers["x-compute-time"]) == receipt.total_us / 1_000_000
    assert headers["x-compute-characters"] == "3"
    inference_us = receipt.prefill_us + receipt.decode_us
    assert headers["x-inference-time"] == str(int(inference_us / 1000))
    assert headers["x-time-per-token"] == str(int(inference_us / 1000 / max(1, tokens)))
    assert headers["x-total-time"] == str(int(receipt.total_ms))


def test_who_answers_instead_is_said_before_the_receipt() -> None:
    origin = Origin(fallback_from="llama", fallback_reason="overloaded")
    names = [*receipt_headers(answer(Receipt(1, 2, 3, 4, 5, 15), origin=origin))]
    assert names[:3] == ["x-gateway-model", "x-gateway-fallback-from", "x-gateway-fallback-reason"]
    assert len(names) == 9


@given(receipt=RECEIPTS)
def test_parts_add_up(receipt: Receipt) -> None:
    parts = receipt.queue_us + receipt.load_us + receipt.prefill_us + receipt.decode_us
    assert receipt.gateway_us == max(0, receipt.total_us - parts)
