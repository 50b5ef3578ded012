"""Transitions for whoever listens. A listener that does not read loses the oldest, and is told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from typing import Any

ModelEvent = Mapping[str, Any]

MAX_UNREAD = 256


class _Listener:
    def __init__(self) -> None:
        self.unread: deque[ModelEvent] = deque()
        self.lost = 0
        self.news = asyncio.Event()


class EventHub:
    """Hands each event to every listener."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()
        self._closed = False

    def publish(self, event: ModelEvent) -> None:
        for listener in self._listeners:
            if len(listener.unread) >= MAX_UNREAD:
                listener.unread.popleft()
                listener.lost += 1
            listener.unread.append(event)
            listener.news.set()

    def close(self) -> None:
        """End every listening."""
        self._closed = True
        for listener in self._listeners:
            listener.news.set()

    async def listen(self, heartbeat_s: float) -> AsyncGenerator[ModelEvent | None]:
        """Events from now on; None when there was none for ``heartbeat_s`` seconds."""
        listener = _Listener()
        self._listeners.add(listener)
        try:
            while not self._closed:
                for event in _take(listener):
                    yield event
                try:
                    async with asyncio.timeout(heartbeat_s):
                        await listener.news.wait()
                except TimeoutError:
                    yield None
        finally:
            self._listeners.discard(listener)


def _take(listener: _Listener) -> list[ModelEvent]:
    taken = [*listener.unread]
    listener.unread.clear()
    listener.news.clear()
    if listener.lost:
        taken.insert(0, {"lost": listener.lost})
        listener.lost = 0
    return taken
