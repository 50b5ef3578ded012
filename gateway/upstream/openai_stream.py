"""The stream of an engine behind OpenAI's ``/v1/completions``, read as TGI would have sent it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from gateway.errors import InvalidRequest
from gateway.schemas import Completed, FinishReason, Token
from gateway.upstream.base import SuspectEngineError, Truncated
from gateway.upstream.bodies import not_understood, object_of
from gateway.upstream.calls import Call
from gateway.upstream.exchange import DataStream
from gateway.upstream.openai_errors import error_of_event, is_error
from gateway.upstream.openai_request import Asked
from gateway.upstream.openai_tokens import Counts, tokens_of

_DONE: Final = b"[DONE]"
_GAVE_UP: Final = frozenset({"abort", "error"})


class Reading:
    """One stream of completion chunks, read once."""

    def __init__(self, events: DataStream, asked: Asked, call: Call) -> None:
        self._events = events
        self._asked = asked
        self._call = call
        self._stops = OwnStops(asked.own_stops)
        self._opening = None if asked.schema() is None else ""
        self._parts: list[str] = []
        self._counts = Counts()
        self._pieces = 0
        self._held: Token | None = None
        self._reason: FinishReason | None = None

    async def all(self) -> AsyncGenerator[Token | Completed, None]:
        """Each Token and then the Completed. Raises GatewayError, after what came before it."""
        while True:
            for data in await self._more():
                if data.strip() == _DONE:
                    yield self._completed()
                    return
                for token in self._chunk(data):
                    yield token
                if self._stops.matched:
                    yield self._completed()
                    return

    async def _more(self) -> list[bytes]:
        batch = await self._events.batch()
        if batch:
            return batch
        if self._reason is not None:
            return [_DONE]
        raise self._truncated("ended")

    def _chunk(self, data: bytes) -> Iterator[Token]:
        chunk = object_of(data, self._call)
        if is_error(chunk):
            raise error_of_event(chunk, self._call.address, self._asked.prompt.text, self._pieces)
        try:
            self._counts.read(chunk)
            choices = chunk.get("choices") or []
            choice = choices[0] if choices else {}
            tokens = tokens_of(choice, self._asked.top) if choice else []
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise not_understood(self._call, error) from error
        for token in tokens:
            yield from self._token(token)
            if self._stops.matched:
                return
        if choice.get("finish_reason"):
            yield from self._finish(choice["finish_reason"])

    def _token(self, token: Token) -> Iterator[Token]:
        if self._held is not None:
            yield self._held
            self._held = None
        self._check_opening(token.text)
        self._pieces += 1
        kept = self._stops.cut(token.text)
        if kept != token.text:
            token = replace(token, text=kept)
        self._parts.append(token.text)
        if self._stops.matched:
            yield replace(token, last=True)
        elif not token.text or self._count == self._asked.limit:
            self._held = token  # it may be the last one: what comes next says so
        else:
            yield token

    def _finish(self, said: object) -> Iterator[Token]:
        if said in _GAVE_UP:
            raise SuspectEngineError(
                f"the engine at {self._call.address} gave up after {self._pieces} pieces",
                hint="It may be out of memory, or stopping: look at its log, and try again.",
            )
        self._reason = "length" if said == "length" else "eos_token"
        if self._held is not None:
            # The end token has no text of its own.
            ends_turn = self._reason == "eos_token" and not self._held.text
            yield replace(self._held, last=True, special=ends_turn)
            self._held = None

    @property
    def _count(self) -> int:
        return self._pieces if self._counts.completion is None else self._counts.completion

    def _completed(self) -> Completed:
        reason: FinishReason | None = "stop_sequence" if self._stops.matched else self._reason
        if reason is None:
            raise self._truncated("said that it was done")
        if not self._stops.matched:
            self._events.finish()
        details = {
            "finish_reason": reason,
            "generated_tokens": self._count,
            "seed": self._asked.seed,
            "input_length": self._counts.prompt,
        }
        text = self._asked.whole("".join(self._parts))
        return Completed(text, reason, self._count, self._counts.prompt, self._asked.seed, details)

    def _truncated(self, how: str) -> Truncated:
        after = f"{how} after {self._pieces} pieces without a reason"
        return Truncated(
            f"truncated: the stream of {self._call.address} {after}",
            hint="The engine may have stopped: look at its log, and send the request again.",
        )

    def _check_opening(self, text: str) -> None:
        """An engine that cannot use a schema leaves it out without a word; then no object begins here."""
        if self._opening is None:
            return
        self._opening = (self._opening + text).lstrip()
        if self._opening and not self._opening.startswith("{"):
            raise InvalidRequest(
                "the engine did not follow the grammar",
                field="parameters.grammar",
                hint="It may not understand a part of the schema: try a simpler one.",
            )
        self._opening = None if self._opening else ""


class OwnStops:
    """Looks for stop strings in pieces as they come. ``matched`` is set at the first one."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._tail = ""
        self.matched = False

    def cut(self, piece: str) -> str:
        """``piece`` up to and with the end of the first stop string, which stays in the text as in TGI."""
        if not self._longest or not piece:
            return piece
        text = self._tail + piece
        ends = [at + len(stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if not ends:
            self._tail = text[-(self._longest - 1) :] if self._longest > 1 else ""
            return piece
        self.matched = True
        return piece[: min(ends) - len(self._tail)]


def details_of(tokens: list[Token], done: Completed) -> Mapping[str, Any]:
    """What TGI's ``details`` say of a whole answer."""
    listed = [
        {"id": one.id, "text": one.text, "logprob": one.logprob, "special": one.special} for one in tokens
    ]
    return {**(done.details or {}), "prefill": [], "tokens": listed}
