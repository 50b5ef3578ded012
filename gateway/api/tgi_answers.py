"""The answers of TGI's dialect, as bytes and headers. Pure."""

from __future__ import annotations

from typing import Any, Final

from gateway.answers import Answer
from gateway.api.receipt_lines import headers_in, receipt_lines
from gateway.api.receipts import origin_headers, receipt_headers
from gateway.api.tgi_bodies import TgiBody, error_body
from gateway.errors import GatewayError
from gateway.routing import Origin
from gateway.schemas import RawTokens, Token
from gateway.wire.tgi import data_event, stream_event, token_body

_NO_ID: Final = 0  # where the engine does not number its tokens: TGI's clients need a number
_THREE_DIGITS: Final = [f"{part:03d}" for part in range(1000)]
_END: Final = Token("", None, None, special=True, last=True)


def details_asked(body: TgiBody) -> bool:
    given = body.parameters
    return given is not None and bool(given.details or given.decoder_input_details)


class EventWriter:
    """The events of one stream. The last token and the whole text are one event."""

    __slots__ = ("_details", "_final", "_index")

    def __init__(self, *, details: bool) -> None:
        self._details = details
        self._index = 0
        self._final: Token | None = None

    def passed(self, event: bytes) -> bytes:
        """One token as TGI wrote it."""
        self._index += 1
        return event

    def raw(self, tokens: RawTokens) -> bytes:
        self._index += tokens.count
        return tokens.events

    def token(self, token: Token) -> bytes:
        """One event; nothing yet for the last token."""
        self._index += 1
        self._final = token if token.last else None
        if token.last:
            return b""
        return _on_one_line(stream_event(self._index, _token(token), top_tokens=_top(token)))

    def last(self, answer: Answer) -> bytes:
        index = self._index if self._final else self._index + 1
        return _last_event(index, self._final or _END, answer, self._details)


def error_event(error: GatewayError) -> bytes:
    return _on_one_line(data_event(error_body(error)))


def _last_event(index: int, token: Token, answer: Answer, details: bool) -> bytes:
    said = {**_ending(answer), "input_length": answer.prompt_tokens}
    event = stream_event(
        index,
        _token(token),
        top_tokens=_top(token),
        generated_text=answer.text,
        details=said if details else None,
    )
    return _on_one_line(event)


def _on_one_line(event: bytes) -> bytes:
    """JSON leaves three characters as they are at which some clients end a line in the middle of an event."""
    if event.isascii():
        return event
    for character in "\x85\u2028\u2029":
        event = event.replace(character.encode(), f"\\u{ord(character):04x}".encode())
    return event


def _ending(answer: Answer) -> dict[str, Any]:
    return {
        "finish_reason": answer.finish_reason,
        "generated_tokens": answer.completion_tokens,
        "seed": answer.seed,
    }


def details_of(answer: Answer, tokens: list[Token] | None) -> dict[str, Any]:
    if tokens is None:
        return {**_ending(answer), "prefill": [], "tokens": [], **(answer.details or {})}
    details = {**_ending(answer), "prefill": [], "tokens": [_token(token) for token in tokens]}
    if any(token.top is not None for token in tokens):
        details["top_tokens"] = [_top(token) or [] for token in tokens]
    return details


def _token(token: Token) -> dict[str, Any]:
    number = _NO_ID if token.id is None else token.id
    return token_body(number, token.text, token.logprob, special=token.special)


def _top(token: Token) -> list[dict[str, Any]] | None:
    return None if token.top is None else [_token(one) for one in token.top]


def answer_headers(body: TgiBody, answer: Answer) -> dict[str, str]:
    """Of a whole answer: TGI's names for the receipt, and ours."""
    return headers_in(_lines(body.inputs, answer)) | receipt_headers(answer)


def answer_lines(inputs: str, answer: Answer) -> str:
    """The same as they stand in a head, for an answer of who was asked by name."""
    return _lines(inputs, answer) + receipt_lines(answer)


def _lines(inputs: str, answer: Answer) -> str:
    """TGI has seconds in ``x-compute-time``, and whole milliseconds in the others."""
    receipt, tokens, prompt_tokens = answer.receipt, answer.completion_tokens, answer.prompt_tokens
    total, inference = receipt.total_us, receipt.prefill_us + receipt.decode_us
    digits = _THREE_DIGITS
    prompt = "" if prompt_tokens is None else f"x-prompt-tokens: {prompt_tokens}\r\n"
    return (
        f"x-compute-type: gateway\r\nx-compute-characters: {len(inputs)}\r\n"
        # Without a format: with one in it, the whole string is dear once this is compiled.
        f"x-compute-time: {total // 1_000_000}.{digits[total // 1000 % 1000]}{digits[total % 1000]}\r\n"
        f"x-total-time: {total // 1000}\r\n"
        f"x-validation-time: {receipt.gateway_us // 1000}\r\n"
        f"x-queue-time: {(receipt.queue_us + receipt.load_us) // 1000}\r\n"
        f"x-inference-time: {inference // 1000}\r\n"
        f"x-time-per-token: {inference // (1000 * (tokens or 1))}\r\n"
        f"x-generated-tokens: {tokens}\r\n{prompt}"
    )


def stream_headers(inputs: str, model_id: str, origin: Origin) -> dict[str, str]:
    """Of a stream, as far as it is known when it opens."""
    headers = {"content-type": "text/event-stream", **_compute_headers(inputs)}
    return headers | origin_headers(model_id, origin)


def _compute_headers(inputs: str) -> dict[str, str]:
    return {"x-compute-type": "gateway", "x-compute-characters": str(len(inputs))}
