"""Who may run: so many generations, and so many tokens of KV cache. In order of arrival, nobody overtakes."""

from __future__ import annotations

import asyncio
from collections import deque


class Room:
    """``tokens`` None: only the number of generations counts."""

    def __init__(self, slots: int, tokens: int | None = None) -> None:
        self._slots = slots
        self._tokens = tokens
        self._running = 0
        self._held_tokens = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def enter(self, tokens: int) -> None:
        """Wait for a slot and for room for so many tokens. Who stops waiting takes nothing."""
        if not self._waiting and self._fits(tokens):
            self._take(tokens)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (tokens, turn)
        self._waiting.append(place)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(tokens)  # its turn had come
            elif place in self._waiting:
                self._waiting.remove(place)
                self._admit()  # those behind it may fit
            raise

    def leave(self, tokens: int) -> None:
        self._running -= 1
        self._held_tokens -= tokens
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            tokens, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._take(tokens)
                turn.set_result(None)

    def _fits(self, tokens: int) -> bool:
        if self._running >= self._slots:
            return False
        # What is larger than all the room runs alone, rather than never.
        return self._tokens is None or not self._running or self._held_tokens + tokens <= self._tokens

    def _take(self, tokens: int) -> None:
        self._running += 1
        self._held_tokens += tokens
