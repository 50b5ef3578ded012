"""What OpenAI's clients get: whole answers, chunks of streams, errors."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from pydantic_core import to_json

from gateway import __version__
from gateway.answers import Answer, Waiting
from gateway.api.openai_choices import Delta, End, FinishReason, Piece
from gateway.api.reading import Placed
from gateway.api.receipts import origin_body, receipt_body, waiting_comment
from gateway.config import ModelSpec
from gateway.errors import GatewayError
from gateway.records import record
from gateway.schemas import Token, ToolCall, ToolCallDelta
from gateway.wire.sse import encode_data

DONE = encode_data(b"[DONE]")
_HERE: Final = "\0"
_HERE_JSON: Final = to_json(_HERE)
"""Stands for a text where a chunk is made that others are cut after. No name has it."""


@dataclass(slots=True)
class Collected:
    """One choice, read to its end."""

    texts: list[str] = field(default_factory=list)
    tokens: list[Placed] = field(default_factory=list)
    end: End | None = None

    def add(self, piece: Delta | End) -> None:
        if isinstance(piece, End):
            self.end = piece
        else:
            self.texts.append(piece.text)
            self.tokens += piece.tokens


class Form(ABC):
    """What differs between chat and text completions."""

    id_prefix: str
    whole: str
    part: str

    @abstractmethod
    def said(self, text: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
        """What a whole answer's choice says."""

    @abstractmethod
    def opening(self) -> dict[str, Any] | None:
        """What the first chunk of a choice says before any text."""

    @abstractmethod
    def more(self, text: str | None, call: ToolCallDelta | None = None) -> dict[str, Any]:
        """What a chunk says; None where a choice ends."""

    @abstractmethod
    def logprobs(self, tokens: Sequence[Placed], top: int) -> dict[str, Any]: ...

    @abstractmethod
    def error(self, error: GatewayError, request_id: str) -> Mapping[str, Any]: ...


class ChatForm(Form):
    """/v1/chat/completions."""

    id_prefix = "chatcmpl-"
    whole = "chat.completion"
    part = "chat.completion.chunk"

    def said(self, text: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
        if not calls:
            return {"message": {"role": "assistant", "content": text}}
        rows = [_call(call) for call in calls]
        return {"message": {"role": "assistant", "content": text or None, "tool_calls": rows}}

    def opening(self) -> dict[str, Any] | None:
        return {"delta": {"role": "assistant", "content": ""}}

    def more(self, text: str | None, call: ToolCallDelta | None = None) -> dict[str, Any]:
        if call is not None:
            return {"delta": {"tool_calls": [_call_delta(call)]}}
        return {"delta": {} if text is None else {"content": text}}

    def logprobs(self, tokens: Sequence[Placed], top: int) -> dict[str, Any]:
        entries = [
            {
                **_logprob(one.token),
                "top_logprobs": [_logprob(other) for other in (one.token.top or ())[:top]],
            }
            for one in tokens
        ]
        return {"content": entries, "refusal": None}

    def error(self, error: GatewayError, request_id: str) -> Mapping[str, Any]:
        return error_body(error, request_id, "messages")


class TextForm(Form):
    """/v1/completions."""

    id_prefix = "cmpl-"
    whole = part = "text_completion"

    def said(self, text: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
        return {"text": text}

    def opening(self) -> dict[str, Any] | None:
        return None

    def more(self, text: str | None, call: ToolCallDelta | None = None) -> dict[str, Any]:
        return {"text": text or ""}

    def logprobs(self, tokens: Sequence[Placed], top: int) -> dict[str, Any]:
        likeliest = [{other.text: other.logprob for other in (one.token.top or ())[:top]} for one in tokens]
        return {
            "tokens": [one.token.text for one in tokens],
            "token_logprobs": [one.token.logprob for one in tokens],
            "top_logprobs": likeliest if top else None,
            "text_offset": [one.offset for one in tokens],
        }

    def error(self, error: GatewayError, request_id: str) -> Mapping[str, Any]:
        return error_body(error, request_id, "prompt")


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _call_delta(call: ToolCallDelta) -> dict[str, Any]:
    """The first piece of a call has everything, the others only more of the arguments."""
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}


def _logprob(token: Token) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.text.encode())}


@record
class Reply:
    """One completion: what all of its bodies have in common.

    ``logprobs`` is None where they were not asked for, otherwise how many likeliest tokens each place gets.
    Each prompt has ``choices_per_prompt`` choices in a row; its tokens count once. ``fingerprints`` are those
    of all models that may answer.
    """

    form: Form
    request_id: str
    spec: ModelSpec
    logprobs: int | None
    choices_per_prompt: int
    fingerprints: Mapping[str, str]
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Iterable[Collected]) -> dict[str, Any]:
        """A whole answer."""
        complete = [(one, one.end) for one in choices if one.end is not None]
        ends = [end for _, end in complete]
        model_id = slowest(ends).model_id
        rows = [
            self._choice(
                end.index,
                self.form.said("".join(one.texts), end.answer.tool_calls),
                one.tokens,
                end.finish_reason,
            )
            # One that another model answered says so itself.
            | ({} if end.answer.model_id == model_id else {"model": end.answer.model_id})
            for one, end in complete
        ]
        head = self._head(self.form.whole, rows, model_id)
        return {**head, "usage": self.usage(ends), **self.how(ends)}

    def how(self, ends: Sequence[End]) -> dict[str, Any]:
        """How the request went, in our own fields."""
        answer = slowest(ends)
        return {**origin_body(answer.origin), "receipt": receipt_body(answer.receipt)}

    def chunk(self, model_id: str, choices: list[dict[str, Any]], **more: Any) -> bytes:
        """One chunk, as an event."""
        return encode_data(to_json({**self._head(self.form.part, choices, model_id), **more}))

    def opening(self, index: int) -> list[dict[str, Any]]:
        said = self.form.opening()
        return [] if said is None else [{"index": index, **said, "logprobs": None, "finish_reason": None}]

    def delta(self, delta: Delta) -> list[dict[str, Any]]:
        return [self._choice(delta.index, self.form.more(delta.text, delta.call), delta.tokens, None)]

    def closing(self, end: End) -> list[dict[str, Any]]:
        more = self.form.more(None)
        return [{"index": end.index, **more, "logprobs": None, "finish_reason": end.finish_reason}]

    def usage(self, ends: Sequence[End]) -> dict[str, int] | None:
        """Token counts over all choices; None where the engine does not say how long a prompt is."""
        prompts = [end.answer.prompt_tokens for end in ends if end.index % self.choices_per_prompt == 0]
        known = [count for count in prompts if count is not None]
        if len(known) < len(prompts):
            return None
        read, written = sum(known), sum(end.answer.completion_tokens for end in ends)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def _choice(
        self, index: int, said: dict[str, Any], tokens: Sequence[Placed], reason: FinishReason | None
    ) -> dict[str, Any]:
        logprobs = None if self.logprobs is None else self.form.logprobs(tokens, self.logprobs)
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": reason}

    def _head(self, kind: str, choices: list[dict[str, Any]], model_id: str) -> dict[str, Any]:
        return {
            "id": self.form.id_prefix + self.request_id,
            "object": kind,
            "created": self.created,
            "model": model_id,
            "system_fingerprint": self.fingerprints.get(model_id),
            "choices": choices,
        }


class Stream:
    """The pieces of all choices, as events in their order."""

    def __init__(self, reply: Reply, choices: int, include_usage: bool) -> None:
        self._reply = reply
        self._left = choices
        self._opened: set[int] = set()
        self._frames: dict[tuple[str, int], tuple[bytes, bytes]] = {}
        self.ends: list[End] = []
        self._include_usage = include_usage
        # OpenAI's chunks have the key in each of them once usage was asked for.
        self._no_usage: dict[str, Any] = {"usage": None} if include_usage else {}

    def events(self, piece: Piece) -> bytes:
        """The events that ``piece`` becomes, with whatever the first and the last need besides."""
        if isinstance(piece, Waiting):
            return waiting_comment(piece)
        model_id = piece.model_id if isinstance(piece, Delta) else piece.answer.model_id
        if isinstance(piece, Delta) and piece.call is None and self._reply.logprobs is None:
            return self.said(model_id, to_json(piece.text), piece.index)
        events = self._open(piece.index, model_id)
        if isinstance(piece, Delta):
            return events + self._reply.chunk(model_id, self._reply.delta(piece), **self._no_usage)
        self.ends.append(piece)
        self._left -= 1
        return events + (self._last(piece) if self._left == 0 else self._closed(piece))

    def said(self, model_id: str, text: bytes, index: int = 0) -> bytes:
        """The events of more text, which is a string of JSON already. All around it is made once."""
        frame = self._frames.get((model_id, index))
        if frame is not None:
            return b"%b%b%b" % (frame[0], text, frame[1])
        delta = self._reply.delta(Delta(index, _HERE, model_id=model_id))
        like = self._reply.chunk(model_id, delta, **self._no_usage)
        before, _, behind = like.rpartition(_HERE_JSON)
        self._frames[model_id, index] = before, behind
        return self._open(index, model_id) + before + text + behind

    def _open(self, index: int, model_id: str) -> bytes:
        if index in self._opened:
            return b""
        self._opened.add(index)
        opening = self._reply.opening(index)
        return self._reply.chunk(model_id, opening, **self._no_usage) if opening else b""

    def _closed(self, end: End, **more: Any) -> bytes:
        closing = self._reply.closing(end)
        return self._reply.chunk(end.answer.model_id, closing, **self._no_usage, **more)

    def _last(self, end: End) -> bytes:
        how = self._reply.how(self.ends)
        if not self._include_usage:
            return self._closed(end, **how) + DONE
        usage = self._reply.usage(self.ends)
        return self._closed(end) + self._reply.chunk(end.answer.model_id, [], usage=usage, **how) + DONE


def slowest(ends: Sequence[End]) -> Answer:
    """The answer that took longest: its receipt is that of the whole request."""
    return max((end.answer for end in ends), key=lambda answer: answer.receipt.total_ms)


def fingerprint_of(spec: ModelSpec) -> str:
    """Changes when what answers under this name may: clients compare it before they trust a seed."""
    return _fingerprint(repr((__version__, spec.id, spec.family, spec.engine, str(spec.url), spec.command)))


@lru_cache(maxsize=256)
def _fingerprint(served_by: str) -> str:
    return "fp_" + hashlib.blake2s(served_by.encode(), digest_size=5).hexdigest()


CHAT = ChatForm()
TEXT = TextForm()

_KINDS: Mapping[str, tuple[str, str | None]] = {
    "validation": ("invalid_request_error", None),
    "unauthorized": ("invalid_request_error", "invalid_api_key"),
    "not_found": ("invalid_request_error", "unknown_url"),
    "overloaded": ("rate_limit_error", "rate_limit_exceeded"),
}
"""Our type → OpenAI's type and code. Others keep our type as the code."""
_FIELDS = {"model_id": "model", "max_new_tokens": "max_tokens", "grammar": "response_format"}
_FIELDS |= {"top_n_tokens": "logprobs"}


def error_body(error: GatewayError, request_id: str, prompt: str) -> dict[str, Any]:
    """OpenAI's error envelope. ``prompt`` is the field that holds the text on the route."""
    usual = "invalid_request_error" if error.status < 500 else "server_error"
    kind, code = _KINDS.get(error.type, (usual, error.type))
    param = (error.field or "").removeprefix("parameters.")
    param = prompt if param == "inputs" else _FIELDS.get(param, param)
    if param == prompt and "tokens" in error.message:
        # The one refusal that clients act on by themselves: they shorten the conversation.
        code = "context_length_exceeded"
    body: dict[str, Any] = {"message": error.message, "type": kind, "param": param or None, "code": code}
    more = {"hint": error.hint, "retry_after_s": error.retry_after_s}
    body |= {name: value for name, value in more.items() if value is not None}
    return {"error": {**body, "request_id": request_id}}
