"""One answer while it arrives: text to one console, news of the wait to another."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator

from gateway.chat.console import Console
from gateway.chat.events import Answer, Lost, Piece, Waiting
from gateway.chat.texts import Texts
from gateway.chat.wording import waiting_line

TICK_S = 0.5
# A first token that comes sooner than this needs no notice.
PATIENCE_S = 1.0
LONG_S = 10.0
"""Where every notice is a line that stays: from when on silence needs one."""


class Reply:
    """``text`` is what has arrived so far, also after a failure or a cancellation."""

    def __init__(self, texts: Texts, model: str, out: Console, news: Console) -> None:
        self._texts = texts
        self._out = out
        self._news = news
        self.model = model
        self._pieces: list[str] = []
        self._waiting: Waiting | None = None
        self._step: tuple[str, str | None] | None = None
        self._since = time.monotonic()
        self._heard = self._told = False

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    async def receive(self, events: AsyncGenerator[Piece | Waiting | Answer]) -> Answer:
        """Show everything up to the end of the answer. Raises what ``events`` raises."""
        try:
            async with contextlib.aclosing(events), self._ticking():
                async for event in events:
                    if isinstance(event, Answer):
                        return self._finished(event)
                    self._take(event)
            raise Lost
        finally:
            self._news.status("")
            self._out.end_line()

    def _take(self, event: Piece | Waiting) -> None:
        self._since, self._heard = time.monotonic(), True
        if isinstance(event, Waiting):
            self.model = event.model_id or self.model
            self._waiting = None if event.kind == "ready" else event
            self._show()
        elif event.text:
            self._waiting = None
            self._news.status("")
            self._pieces.append(event.text)
            self._out.write(event.text)

    def _finished(self, answer: Answer) -> Answer:
        # The end carries the whole text. What no piece brought is still to be shown.
        self._out.write(answer.text.removeprefix(self.text) if answer.text.startswith(self.text) else "")
        self._pieces = [answer.text]
        self.model = answer.model_id or self.model
        return answer

    def _show(self) -> None:
        if not self._news.moves:
            self._show_once()
            return
        passed_s = time.monotonic() - self._since
        if self._waiting:
            self._news.status(waiting_line(self._texts, self._waiting, passed_s))
        elif not self._pieces and passed_s >= PATIENCE_S:
            passed = self._texts.seconds.format(count=int(passed_s))
            self._news.status(self._texts.waiting_answer.format(model=self.model, seconds=passed))

    def _show_once(self) -> None:
        """Where every status is a line of its own: one for each step, none for its countdown."""
        step = (self._waiting.kind, self._waiting.phase) if self._waiting else None
        if self._waiting and step != self._step:
            self._news.status(waiting_line(self._texts, self._waiting))
        self._step = step
        passed_s = time.monotonic() - self._since
        if not (self._heard or self._told) and passed_s >= LONG_S:
            self._told = True
            passed = self._texts.seconds.format(count=int(passed_s))
            self._news.status(self._texts.waiting_answer.format(model=self.model, seconds=passed))

    @contextlib.asynccontextmanager
    async def _ticking(self) -> AsyncIterator[None]:
        ticker = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            ticker.cancel()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._show()
