"""The choices of one request: each a generation of its own, read side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Literal

from gateway.answers import Answer, Waiting
from gateway.api.reading import Ended, Placed, Reading, Said
from gateway.generation import GenerationRequest, Generations
from gateway.records import record
from gateway.routing import Who
from gateway.schemas import ToolCallDelta

FinishReason = Literal["stop", "length", "tool_calls"]


@record
class Delta:
    """More of a choice: text, with its tokens only where they were asked for, or a piece of a tool call."""

    index: int
    text: str
    tokens: tuple[Placed, ...] = ()
    model_id: str = ""
    call: ToolCallDelta | None = None


@record
class End:
    """The end of a choice."""

    index: int
    finish_reason: FinishReason
    answer: Answer


Piece = Waiting | Delta | End


class Choice:
    """One generation of a request, and its number."""

    def __init__(self, line: Generations, asked: GenerationRequest, index: int, *, logprobs: bool) -> None:
        self._reading = Reading(line, asked, tokens=logprobs)
        self._index = index

    @property
    def who(self) -> Who | None:
        """Who answers, once the first piece is there."""
        return self._reading.who

    async def pieces(self) -> AsyncGenerator[Piece]:
        """Waiting while there is a wait, each Delta, one End. What can be refused is raised by the first."""
        async with aclosing(self._reading.pieces()) as pieces:
            async for piece in pieces:
                if isinstance(piece, Waiting):
                    yield piece
                else:
                    yield numbered(piece, self._index, self.who.spec.id if self.who else "")


def numbered(piece: Said | Ended, index: int, model_id: str) -> Delta | End:
    """A piece of the choice ``index``, which that model gives."""
    if isinstance(piece, Said):
        return Delta(index, piece.text, piece.tokens, model_id, piece.call)
    reason: FinishReason = "length" if piece.at_limit else "tool_calls" if piece.calls_tools else "stop"
    return End(index, reason, piece.answer)


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
