"""One generation, read as a text without stop strings, and as calls of tools.

``Reader`` decides, and both ways of a request use it; ``Reading`` drives it on the ordinary one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing

from gateway.answers import Answer, Waiting
from gateway.api.stops import StopStrings
from gateway.generation import Generation, GenerationRequest, Generations
from gateway.preparing import Prepared
from gateway.records import record
from gateway.routing import Who
from gateway.schemas import Token, ToolCallDelta


@record
class Placed:
    """A token, and at which character of the text it begins."""

    token: Token
    offset: int

    @property
    def end(self) -> int:
        return self.offset + len(self.token.text)


@record
class Said:
    """More of the answer: text, with its tokens only where they were asked for, or a piece of a tool call."""

    text: str
    tokens: tuple[Placed, ...] = ()
    call: ToolCallDelta | None = None


@record
class Ended:
    """The end. ``stop`` is the stop string that was found; ``at_limit`` says that the length was all."""

    answer: Answer
    stop: str | None
    at_limit: bool

    @property
    def calls_tools(self) -> bool:
        return self.answer.finish_reason == "tool_calls"


class Reader:
    """Tokens and an Answer in, pieces out. Pure.

    ``own_stops`` are stop strings beyond those that the engine was told. ``streams`` says that the text comes
    as tokens, and not with the answer alone; ``tokens``, that they are wanted with their places in it.
    """

    __slots__ = (
        "_own_stops",
        "_pending",
        "_read_characters",
        "_shown_characters",
        "_stops",
        "_streams",
        "tokens",
    )

    def __init__(self, own_stops: Sequence[str] = (), *, streams: bool, tokens: bool = False) -> None:
        self._own_stops = own_stops
        self._streams = streams
        self._stops = StopStrings(own_stops)
        self._pending: deque[Placed] | None = deque() if tokens else None
        self._read_characters = self._shown_characters = 0
        self.tokens = 0
        """How many were read."""

    def answered_by(self, prepared: Prepared) -> None:
        """Who answers has strings of its own that end a turn."""
        defaults = prepared.parameters.get("stop", ())
        self._stops = StopStrings(dict.fromkeys([*self._own_stops, *defaults, *prepared.stop]))

    def has_enough(self, token: Token) -> bool:
        """Whether the text has ended at ``token``, which was read, and the engine does not know it.

        That looks for stop strings at the ends of tokens only, and would go on.
        """
        return self._stops.found and not token.last

    def token(self, token: Token) -> Said | None:
        """What is shown now; None where that is nothing."""
        self.tokens += 1
        if token.call is not None:
            return Said("", call=token.call)
        if token.special or self._stops.found:
            return None
        if self._pending is not None:
            self._pending.append(Placed(token, self._read_characters))
        self._read_characters += len(token.text)
        return self._shown(self._stops.feed(token.text))

    def passes(self, text: bytes) -> bool:
        """Whether the text of a token, in UTF-8, is shown as it is. Then the token counts as read.

        Not for who wants tokens with their places.
        """
        if not self._stops.passes(text):
            return False
        self.tokens += 1
        return True

    def end(self, answer: Answer) -> Iterator[Said | Ended]:
        """What was held back, and the end."""
        # Without a stream the text comes with the answer alone.
        text = "" if self._streams else self._stops.feed(answer.text)
        if last := self._shown(text + self._stops.flush(), at_end=True):
            yield last
        at_limit = answer.finish_reason == "length" and not self._stops.found
        yield Ended(answer, self._stops.matched, at_limit)

    def _shown(self, text: str, *, at_end: bool = False) -> Said | None:
        if self._pending is None:
            return Said(text) if text else None
        self._shown_characters += len(text)
        tokens = tuple(self._shown_tokens(self._pending, at_end))
        return Said(text, tokens) if text or tokens else None

    def _shown_tokens(self, pending: deque[Placed], at_end: bool) -> Iterator[Placed]:
        """Tokens whose text has been shown; a stop string cuts off those behind it."""
        shown = self._shown_characters
        while pending and (pending[0].end <= shown or at_end or self._stops.found):
            placed = pending.popleft()
            if placed.offset < shown or not self._stops.found:
                yield placed


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
        streams = asked.stream or asked.conversation is not None
        self._reader = Reader(own_stops, streams=streams, tokens=tokens)
        self._said: list[str] = []

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
                    if isinstance(event, Token) and self._reader.has_enough(event):
                        for piece in self._reader.end(await self._cut(generation)):
                            yield piece
                        return
        finally:
            await generation.aclose()

    @property
    def who(self) -> Who | None:
        """Who answers, once the first piece is there."""
        return self._generation.who if self._generation is not None else None

    def _answered_by(self, generation: Generation) -> None:
        self._generation = generation
        self._reader.answered_by(generation.prepared)

    def _pieces(self, event: Waiting | Token | Answer) -> Iterator[Waiting | Said | Ended]:
        if isinstance(event, Waiting):
            yield event
        elif isinstance(event, Answer):
            yield from self._reader.end(event)
        elif said := self._reader.token(event):
            self._said.append(said.text)
            yield said

    async def _cut(self, generation: Generation) -> Answer:
        prompt_tokens = await self._line.count_tokens(generation.spec, generation.prepared.prompt)
        return generation.cut("".join(self._said), self._reader.tokens, prompt_tokens)
