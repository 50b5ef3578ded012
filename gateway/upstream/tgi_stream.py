"""A request as TGI gets it, and the events of its answer as pieces. Pure: bytes in, pieces out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args

from gateway.errors import EngineError, GatewayError
from gateway.records import record
from gateway.schemas import Completed, FinishReason, Piece, RawTokens, Token
from gateway.upstream.base import Truncated
from gateway.upstream.bodies import json_body, not_understood, object_of
from gateway.upstream.calls import Call
from gateway.upstream.exchange import Answer
from gateway.upstream.push import Pushed
from gateway.upstream.tgi_errors import error_of_answer, error_of_event

STREAM: Final = "/generate_stream"
_MAX_STOPS: Final = 4  # TGI's --max-stop-sequences
_REASONS: Final[Mapping[object, FinishReason]] = {reason: reason for reason in get_args(FinishReason)}
# In the text of a token the quotes would be escaped, so this is in every event but the last and errors.
_UNFINISHED: Final = b'"generated_text":null'
_INDEX: Final = b'{"index":'
_BEGIN: Final = b"data: " + _INDEX
_MIDDLE: Final = b'"generated_text":null,"details":null}\n\n'
_TOKEN: Final = b'"token":{"id":'
_NO_ID: Final = b'"id":null'
_LINE_END: Final = re.compile(rb"\n|\xc2\x85|\xe2\x80[\xa8\xa9]")  # as some clients see it


@record
class Form:
    """What requests have in common that differ in their text alone, and whose each stop string is.

    Nothing of it is changed once it is made, so it may be kept.
    """

    parameters: Mapping[str, object]
    own_stops: tuple[str, ...]
    family_stops: tuple[str, ...]
    behind: bytes
    """What a request is behind its text."""

    @classmethod
    def of(cls, family_stops: tuple[str, ...], parameters: Mapping[str, object]) -> Form:
        """``family_stops``: the strings that end a turn. Raises InvalidRequest for what JSON cannot hold."""
        given = {name: value for name, value in parameters.items() if value is not None}
        stop = given.get("stop")
        own = tuple(str(one) for one in stop) if isinstance(stop, list | tuple) else ()
        # TGI refuses more; without its stop string a turn still ends at the model's end token.
        stops = [*own, *(one for one in family_stops if one not in own)][: max(_MAX_STOPS, len(own))]
        if stops:
            given["stop"] = stops
        given["details"] = True
        return cls(given, own, family_stops, b',"parameters":%b}' % json_body(given))

    def body(self, inputs: str) -> bytes:
        """A request as TGI gets it. Raises InvalidRequest for what JSON cannot hold."""
        return b'{"inputs":%b%b' % (json_body(inputs), self.behind)

    def push(self, url: str, inputs: str, *, tokens: bool, raw: bool) -> Pushed:
        call = Call("POST", url, STREAM, self.body(inputs))
        reading = Reading(self, inputs, call, wants_tokens=tokens, raw=raw)
        return Pushed(call, reading, reading.explain)

    def settle(self, text: str, reason: FinishReason, last: str) -> tuple[str, FinishReason]:
        """The text and the reason for who asked: the family's stop string is the end of a turn, not text.

        ``last`` is the text of the last token: TGI leaves special tokens out of the whole text.
        """
        if reason != "stop_sequence" or (self.own_stops and text.endswith(self.own_stops)):
            return text, reason
        for stop in self.family_stops:
            if text.endswith(stop):
                return text.removesuffix(stop), "eos_token"
        return text, "eos_token" if last.endswith(self.family_stops) else reason

    def guess_reason(self, text: str, tokens: int) -> FinishReason:
        """For an engine that gives no details."""
        limit = self.parameters.get("max_new_tokens")
        if isinstance(limit, int) and tokens >= limit:
            return "length"
        return "stop_sequence" if text.endswith((*self.own_stops, *self.family_stops)) else "eos_token"


class Reading:
    """One stream of TGI's events, read once. What goes wrong in it is raised as a GatewayError."""

    __slots__ = ("_call", "_form", "_inputs", "_raw", "_wants_tokens", "tokens")

    def __init__(self, form: Form, inputs: str, call: Call, *, wants_tokens: bool, raw: bool) -> None:
        self._form = form
        self._inputs = inputs
        self._call = call
        self._wants_tokens = wants_tokens
        self._raw = raw and wants_tokens
        self.tokens = 0
        """How many have come."""

    def passes(self, data: bytes) -> bool:
        """Whether ``data`` is one event, a token in the middle, in the very bytes that clients may get."""
        if not self._raw or not data.startswith(_BEGIN) or not data.endswith(_MIDDLE):
            return False
        # `in` raises, and drops, an exception for bytes in bytes: that is dearer than all else here.
        if data.find(b"\n") != len(data) - 2 or data.find(_TOKEN) < 0 or data.find(_NO_ID) >= 0:
            return False
        if not data.isascii() and _LINE_END.search(data, 0, len(data) - 2):
            return False
        self.tokens += 1
        return True

    def whole(self, data: bytes) -> Completed | None:
        """The answer, if ``data`` is all of it and nobody wants the tokens. None, and nothing was read,
        otherwise.

        What it says at its end is enough.
        """
        if self._wants_tokens or not data.startswith(b"data:") or not data.endswith(b"\n\n"):
            return None
        begin = data.rfind(b"\n\n", 0, -2)
        # A slice that ends before it begins is empty in Python, and an error in what mypyc makes of it.
        if begin >= 0 and not data.startswith(b"data:", begin + 2):
            return None
        last = data[7 + begin : -2] if begin >= 0 else data[5:-2]
        if last.find(_UNFINISHED) >= 0 or last.find(b"\n") >= 0:
            return None
        try:
            event = object_of(last, self._call)
            if details_of(event).get("generated_tokens") is None:
                self.tokens = data.count(b"\n\ndata:") + 1  # which takes as long as all the rest
            completed = None if "error" in event else self._completed(event, _token_of(event))
        except (EngineError, KeyError, TypeError):
            completed = None  # what is wrong is said where events are read one by one
        if completed is None:
            self.tokens = 0
        return completed

    def check(self, first: bytes) -> None:
        """Raise what the first event is if it is an error, so that no token was promised."""
        if first.find(_UNFINISHED) < 0:
            self._event(first)

    def pieces(self, batch: list[bytes]) -> Iterator[Piece]:
        """The pieces in the data of some events. Nothing is to be read after a Completed."""
        if self._raw and all(map(_passes, batch)):
            self.tokens += len(batch)
            events = [b"data: %b\n\n" % data for data in batch]
            yield RawTokens(events[0] if len(events) == 1 else b"".join(events), len(batch))
            return
        for data in batch:
            if not self._wants_tokens and data.find(_UNFINISHED) >= 0:
                self.tokens += 1
                continue
            token, completed = self._parsed(data)
            if self._wants_tokens:
                yield token
            if completed is not None:
                yield completed
                return

    def explain(self, answer: Answer) -> GatewayError:
        """The error for an answer that is no stream."""
        return error_of_answer(answer, self._call.address, self._inputs)

    def broke_off(self) -> Truncated:
        """The error for a stream that ended before its last event."""
        ended = f"ended after {self.tokens} tokens without a last event"
        return Truncated(
            f"truncated: the stream of {self._call.address} {ended}",
            hint="The engine may have stopped: look at its log, and send the request again.",
        )

    def _parsed(self, data: bytes) -> tuple[Token, Completed | None]:
        event = self._event(data)
        self.tokens += 1
        try:
            token = _token_of(event)
            return token, self._completed(event, token)
        except (KeyError, TypeError) as error:
            raise not_understood(self._call, error) from error

    def _event(self, data: bytes) -> dict[str, Any]:
        event = object_of(data, self._call)
        if "error" in event:
            raise error_of_event(event, self._call.address, self._inputs, self.tokens)
        return event

    def _completed(self, event: dict[str, Any], last: Token) -> Completed | None:
        text = event.get("generated_text")
        if text is None:
            return None
        if not isinstance(text, str):
            raise TypeError("generated_text is not a string")
        details = details_of(event)
        return complete(text, details, self._form, last.text, self.tokens, details.get("input_length"))


def _passes(data: bytes) -> bool:
    """Whether an event is a token in the middle as TGI writes it, on one line that no client ends early."""
    if not data.startswith(_INDEX) or data.find(_UNFINISHED) < 0:
        return False
    if data.find(_TOKEN) < 0 or data.find(_NO_ID) >= 0:
        return False
    return (data.isascii() and data.find(b"\n") < 0) or _LINE_END.search(data) is None


def complete(
    text: str, details: dict[str, Any], form: Form, last: str, tokens: int, prompt_tokens: int | None
) -> Completed:
    """The end of an answer, from what TGI says at it."""
    count = details.get("generated_tokens")
    count = tokens if count is None else count
    said = details.get("finish_reason")
    text, reason = form.settle(text, _REASONS.get(said) or form.guess_reason(text, count), last)
    return Completed(text, reason, count, prompt_tokens, details.get("seed"), details or None)


def details_of(body: dict[str, Any]) -> dict[str, Any]:
    details = body.get("details")
    return details if isinstance(details, dict) else {}


def _token(token: dict[str, Any], *, last: bool = False, top: tuple[Token, ...] | None = None) -> Token:
    text = token["text"]
    if not isinstance(text, str):
        raise TypeError("text of a token is not a string")
    return Token(text, token.get("id"), token.get("logprob"), bool(token.get("special")), last, top)


def _token_of(event: dict[str, Any]) -> Token:
    """The token of an event, with what only the event knows of it."""
    top = event.get("top_tokens")
    return _token(
        event["token"],
        last=event.get("generated_text") is not None,
        top=None if top is None else tuple(map(_token, top)),
    )
