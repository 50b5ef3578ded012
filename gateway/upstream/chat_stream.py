"""The stream of an engine's chat route, read as one of our own kind: texts, pieces of tool calls, an end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, Protocol

from gateway.errors import GatewayError, InvalidRequest
from gateway.schemas import Completed, FinishReason, Token
from gateway.upstream.base import SuspectEngineError, Truncated
from gateway.upstream.bodies import not_understood, object_of
from gateway.upstream.calls import Call
from gateway.upstream.chat_calls import Calls
from gateway.upstream.chat_request import Chat
from gateway.upstream.exchange import DataStream
from gateway.upstream.openai_stream import OwnStops
from gateway.upstream.openai_tokens import Counts, of_chat

_DONE: Final = b"[DONE]"
_REASONS: Final[Mapping[object, FinishReason]] = {
    "length": "length",
    "model_length": "length",
    "stop_sequence": "stop_sequence",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
"""The engines' words; any other one means that the model had said all."""
_GAVE_UP: Final = frozenset({"abort", "error"})


@asynccontextmanager
async def opened(reading: ChatReading) -> AsyncIterator[AsyncIterator[Token | Completed]]:
    """The pieces of ``reading``, once the first of them is there."""
    async with aclosing(reading.all()) as found:
        first = await anext(found)
        async with aclosing(_from(first, found)) as pieces:
            yield pieces


async def _from(
    first: Token | Completed, rest: AsyncIterator[Token | Completed]
) -> AsyncGenerator[Token | Completed, None]:
    yield first
    async for piece in rest:
        yield piece


class Explain(Protocol):
    """Our error for an event that is one, after so many pieces."""

    def __call__(self, event: Mapping[str, Any], pieces: int) -> GatewayError: ...


class ChatReading:
    """One stream of chat chunks, read once."""

    def __init__(self, events: DataStream, chat: Chat, call: Call, explain: Explain, calls: Calls) -> None:
        self._events = events
        self._chat = chat
        self._call = call
        self._explain = explain
        self._stops = OwnStops(chat.own_stops)
        self._calls = calls
        self._counts = Counts()
        self._parts: list[str] = []
        self._pieces = 0
        self._reason: FinishReason | None = None

    async def all(self) -> AsyncGenerator[Token | Completed, None]:
        """Each Token and then the Completed. Raises GatewayError, after what came before it."""
        async for data in self._data():
            for token in self._chunk(data):
                yield token
            if self._stops.matched:
                yield self._completed()
                return
        for token in self._calls.finish():
            for piece in [token] if token.call else self._text(token):
                yield piece
        done = self._completed()
        self._events.finish()
        yield done

    async def _data(self) -> AsyncGenerator[bytes, None]:
        """Every data line but the last, which says that the stream is whole."""
        while batch := await self._events.batch():
            for data in batch:
                if data.strip() == _DONE:
                    return
                yield data
        if self._reason is None:
            raise self._truncated("ended")

    def _chunk(self, data: bytes) -> Iterator[Token]:
        chunk = object_of(data, self._call)
        if chunk.get("error") or chunk.get("object") == "error":
            raise self._explain(chunk, self._pieces)
        try:
            self._counts.read(chunk)
            choices = chunk.get("choices") or []
            choice = choices[0] if choices else {}
            yield from self._delta(choice)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise not_understood(self._call, error) from error
        if said := choice.get("finish_reason"):
            self._finish(said)

    def _delta(self, choice: Mapping[str, Any]) -> Iterator[Token]:
        delta = choice.get("delta") or {}
        if content := delta.get("content"):
            for token in self._texts(content, choice.get("logprobs") or {}):
                yield from self._text(token)
                if self._stops.matched:
                    return
        if calls := delta.get("tool_calls"):
            self._pieces += 1
            yield from self._calls.read(calls)

    def _texts(self, content: str, logprobs: Mapping[str, Any]) -> list[Token]:
        found = [of_chat(one, self._chat.top) for one in logprobs.get("content") or ()]
        if found and "".join(one.text for one in found) == content:
            return found
        if not isinstance(content, str):
            raise TypeError("content of a delta is not a string")
        return [Token(content, None, None, special=False)]

    def _text(self, token: Token) -> Iterator[Token]:
        self._pieces += 1
        kept = self._stops.cut(token.text)
        self._parts.append(kept)
        yield (
            token
            if kept == token.text
            else Token(kept, token.id, token.logprob, special=False, last=True, top=token.top)
        )

    def _finish(self, said: object) -> None:
        if said in _GAVE_UP:
            raise SuspectEngineError(
                f"the engine at {self._call.address} gave up after {self._pieces} pieces",
                hint="It may be out of memory, or stopping: look at its log, and try again.",
            )
        self._reason = _REASONS.get(said, "eos_token")

    def _completed(self) -> Completed:
        reason = self._settled()
        calls = self._calls.whole
        demanded = self._chat.conversation.mode == "required" and self._chat.offers_tools
        if demanded and not calls and reason != "length":
            raise InvalidRequest(
                "the engine called no tool, although tool_choice demands it",
                field="tool_choice",
                hint="The engine's chat template may know no tools: see `capabilities` in the reference.",
            )
        counts, seed = self._counts, self._chat.seed
        written = self._pieces if counts.completion is None else counts.completion
        return Completed("".join(self._parts), reason, written, counts.prompt, seed, tool_calls=calls)

    def _settled(self) -> FinishReason:
        """Engines say "stop" behind a tool call, and TGI may say nothing at all."""
        if self._stops.matched:
            return "stop_sequence"
        if self._calls and (self._reason in ("eos_token", "stop_sequence") or self._reason is None):
            if self._reason is None and not self._calls.complete:
                raise self._truncated("said that it was done")
            return "tool_calls"
        if self._reason is None:
            raise self._truncated("said that it was done")
        return "eos_token" if self._reason == "tool_calls" and not self._calls else self._reason

    def _truncated(self, how: str) -> Truncated:
        after = f"{how} after {self._pieces} pieces without a reason"
        return Truncated(
            f"truncated: the stream of {self._call.address} {after}",
            hint="The engine may have stopped: look at its log, and send the request again.",
        )
