"""One generation, read as a text without stop strings, and as calls of tools."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from gateway.answers import Answer, Waiting
from gateway.api.stops import StopStrings
from gateway.generation import Generation, GenerationRequest, Generations
from gateway.routing import Who
from gateway.schemas import Token, ToolCallDelta


@dataclass(frozen=True, slots=True)
class Placed:
    """A token, and at which character of the text it begins."""

    token: Token
    offset: int

    @property
    def end(self) -> int:
        return self.offset + len(self.token.text)


@dataclass(frozen=True, slots=True)
class Said:
    """More of the answer: text, with its tokens only where they were asked for, or a piece of a tool call."""

    text: str
    tokens: tuple[Placed, ...] = ()
    call: ToolCallDelta | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The end. ``stop`` is the stop string that was found; ``at_limit`` says that the length was all."""

    answer: Answer
    stop: str | None
    at_limit: bool

    @property
    def calls_tools(self) -> bool:
        return self.answer.finish_reason == "tool_calls"


class Reading:
    """See the module. ``own_stops`` are stop strings beyond those that the engine was told."""

    def __init__(
        self,
        line: Generations,
        asked: GenerationRequest,
        *,
        own_stops: Sequence[str] = (),
        tokens: bool = False,
    ) -> None:
        self._line = line
        self._asked = asked
        self._generation: Generation | None = None
        self._own_stops = own_stops
        self._wants_tokens = tokens
        self._streams = asked.stream or asked.conversation is not None
        self._stops = StopStrings(own_stops)
        self._pending: deque[Placed] = deque()
        self._said: list[str] = []
        self._read_characters = self._shown_characters = self._tokens = 0

    async def pieces(self) -> AsyncGenerator[Waiting | Said | Ended]:
        """Waiting while there is a wait, each Said, one Ended. What can be refused is raised by the first."""
        generation = await self._line.start(self._asked)
        try:
            self._answered_by(generation)
            async with aclosing(generation.events()) as events:
                async for event in events:
                    if isinstance(event, Waiting) and event.fell_back is not None:
                        self._answered_by(generation)
                    for piece in self._pieces(event):
                        yield piece
                    if isinstance(event, Token) and self._stops.found and not event.last:
                        # The engine looks for stop strings at the ends of tokens only, and would go on.
                        yield self._ended(await self._cut(generation))
                        return
        finally:
            await generation.aclose()

    @property
    def who(self) -> Who | None:
        """Who answers, once the first piece is there."""
        return self._generation.who if self._generation is not None else None

    def _answered_by(self, generation: Generation) -> None:
        """Who answers has strings of its own that end a turn."""
        self._generation, prepared = generation, generation.prepared
        defaults = prepared.parameters.get("stop", ())
        self._stops = StopStrings(dict.fromkeys([*self._own_stops, *defaults, *prepared.stop]))

    def _pieces(self, event: Waiting | Token | Answer) -> Iterator[Waiting | Said | Ended]:
        if isinstance(event, Waiting):
            yield event
        elif isinstance(event, Answer):
            yield from self._close(event)
        elif said := self._take(event):
            yield said

    def _take(self, token: Token) -> Said | None:
        self._tokens += 1
        if token.call is not None:
            return Said("", call=token.call)
        if token.special or self._stops.found:
            return None
        if self._wants_tokens:
            self._pending.append(Placed(token, self._read_characters))
        self._read_characters += len(token.text)
        return self._shown(self._stops.feed(token.text))

    def _close(self, answer: Answer) -> Iterator[Said | Ended]:
        # Without a stream the text comes with the answer alone.
        text = "" if self._streams else self._stops.feed(answer.text)
        if last := self._shown(text + self._stops.flush(), at_end=True):
            yield last
        yield self._ended(answer)

    def _ended(self, answer: Answer) -> Ended:
        at_limit = answer.finish_reason == "length" and not self._stops.found
        return Ended(answer, self._stops.matched, at_limit)

    def _shown(self, text: str, *, at_end: bool = False) -> Said | None:
        self._shown_characters += len(text)
        self._said.append(text)
        tokens = tuple(self._shown_tokens(at_end))
        return Said(text, tokens) if text or tokens else None

    def _shown_tokens(self, at_end: bool) -> Iterator[Placed]:
        """Tokens whose text has been shown; a stop string cuts off those behind it."""
        shown, pending = self._shown_characters, self._pending
        while pending and (pending[0].end <= shown or at_end or self._stops.found):
            placed = pending.popleft()
            if placed.offset < shown or not self._stops.found:
                yield placed

    async def _cut(self, generation: Generation) -> Answer:
        prompt_tokens = await self._line.count_tokens(generation.spec, generation.prepared.prompt)
        return generation.cut("".join(self._said), self._tokens, prompt_tokens)
