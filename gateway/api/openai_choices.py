"""The choices of one request: each a generation of its own, read side by side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from gateway.answers import Answer, Waiting
from gateway.api.stops import StopStrings
from gateway.generation import Generation, GenerationRequest, Generations, Prepared
from gateway.schemas import Token

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Placed:
    """A token, and at which character of the text it begins."""

    token: Token
    offset: int

    @property
    def end(self) -> int:
        return self.offset + len(self.token.text)


@dataclass(frozen=True, slots=True)
class Delta:
    """More text of a choice; its tokens only where they were asked for."""

    index: int
    text: str
    tokens: tuple[Placed, ...] = ()
    model_id: str = ""


@dataclass(frozen=True, slots=True)
class End:
    """The end of a choice."""

    index: int
    finish_reason: FinishReason
    answer: Answer


Piece = Waiting | Delta | End


class Choice:
    """One generation, read as a text without stop strings."""

    def __init__(self, line: Generations, asked: GenerationRequest, index: int, *, logprobs: bool) -> None:
        self._line = line
        self._asked = asked
        self._index = index
        self.generation: Generation | None = None
        self._wants_tokens = logprobs
        self._stops = StopStrings(())
        self._pending: deque[Placed] = deque()
        self._said: list[str] = []
        self._read_characters = self._shown_characters = self._tokens = 0

    async def pieces(self) -> AsyncGenerator[Piece]:
        """Waiting while there is a wait, each Delta, one End. What can be refused is raised by the first."""
        generation = self.generation = await self._line.start(self._asked)
        try:
            self._look_for_stops(generation.prepared)
            async with aclosing(generation.events()) as events:
                async for event in events:
                    if isinstance(event, Waiting) and event.fell_back is not None:
                        self._look_for_stops(generation.prepared)
                    for piece in self._pieces(event):
                        yield piece
                    if isinstance(event, Token) and self._stops.found and not event.last:
                        # The engine looks for stop strings at the ends of tokens only, and would go on.
                        yield End(self._index, "stop", await self._cut(generation))
                        return
        finally:
            await generation.aclose()

    def _look_for_stops(self, prepared: Prepared) -> None:
        self._stops = StopStrings([*prepared.parameters.get("stop", ()), *prepared.prompt.stop])

    def _pieces(self, event: Waiting | Token | Answer) -> Iterator[Piece]:
        if isinstance(event, Waiting):
            yield event
        elif isinstance(event, Token):
            if delta := self._take(event):
                yield delta
        else:
            yield from self._close(event)

    def _take(self, token: Token) -> Delta | None:
        self._tokens += 1
        if token.special or self._stops.found:
            return None
        if self._wants_tokens:
            self._pending.append(Placed(token, self._read_characters))
        self._read_characters += len(token.text)
        return self._delta(self._stops.feed(token.text))

    def _close(self, answer: Answer) -> Iterator[Piece]:
        text = "" if self._asked.stream else self._stops.feed(answer.text)
        if last := self._delta(text + self._stops.flush(), at_end=True):
            yield last
        at_limit = answer.finish_reason == "length" and not self._stops.found
        yield End(self._index, "length" if at_limit else "stop", answer)

    def _delta(self, text: str, *, at_end: bool = False) -> Delta | None:
        self._shown_characters += len(text)
        self._said.append(text)
        tokens = tuple(self._shown_tokens(at_end))
        model_id = self.generation.spec.id if self.generation is not None else ""
        return Delta(self._index, text, tokens, model_id) if text or tokens else None

    def _shown_tokens(self, at_end: bool) -> Iterator[Placed]:
        """Tokens whose text has been shown; a stop string cuts off those behind it."""
        shown, pending = self._shown_characters, self._pending
        while pending and (pending[0].end <= shown or at_end or self._stops.found):
            placed = pending.popleft()
            if placed.offset < shown or not self._stops.found:
                yield placed

    async def _cut(self, generation: Generation) -> Answer:
        prompt = generation.prepared.prompt.text
        prompt_tokens = await self._line.count_tokens(generation.spec, prompt)
        return generation.cut("".join(self._said), self._tokens, prompt_tokens)


async def side_by_side(choices: Sequence[Choice]) -> AsyncGenerator[Piece]:
    """The pieces of all choices as they come. The first error ends them all."""
    if len(choices) == 1:
        async with aclosing(choices[0].pieces()) as pieces:
            async for piece in pieces:
                yield piece
        return
    arrived: asyncio.Queue[Piece | Exception] = asyncio.Queue(maxsize=len(choices))
    readers = [asyncio.create_task(_read(choice, arrived)) for choice in choices]
    try:
        open_choices = len(choices)
        while open_choices:
            found = await arrived.get()
            if isinstance(found, Exception):
                raise found
            open_choices -= isinstance(found, End)
            yield found
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def _read(choice: Choice, arrived: asyncio.Queue[Piece | Exception]) -> None:
    try:
        async with aclosing(choice.pieces()) as pieces:
            async for piece in pieces:
                await arrived.put(piece)
    except Exception as error:
        # Whatever it is, it is raised where the pieces are read: nobody would look at this task.
        await arrived.put(error)
