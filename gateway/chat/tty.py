"""The terminal while an answer arrives: keys typed meanwhile wait for the next prompt, unseen."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine, Iterator
from types import FrameType
from typing import Any, TypeVar

try:
    import termios
except ImportError:  # no POSIX terminal: keys are echoed
    termios = None  # type: ignore[assignment]

Result = TypeVar("Result")


class Interrupts:
    """Ctrl-C ends the work under way, and nothing else. Without any it is ignored."""

    def __init__(self) -> None:
        self._work: asyncio.Task[Any] | None = None

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Take SIGINT, and have SIGTERM and SIGHUP end the surrounding task so that it can clean up."""
        loop, main = asyncio.get_running_loop(), asyncio.current_task()

        def stop_work(_: int, __: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._stop)

        def stop_all(_: int, __: FrameType | None) -> None:
            if main:
                loop.call_soon_threadsafe(main.cancel)

        wanted = {signal.SIGINT: stop_work, signal.SIGTERM: stop_all, signal.SIGHUP: stop_all}
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def guard(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """The result of ``work``; None when Ctrl-C stopped it."""
        task = self._work = asyncio.create_task(work)
        try:
            await asyncio.wait({task})
        finally:
            self._work = None
            task.cancel()
        return None if task.cancelled() else task.result()

    def _stop(self) -> None:
        if self._work:
            self._work.cancel()


@contextlib.contextmanager
def quiet_keys() -> Iterator[None]:
    """No echo and no line editing; Ctrl-C stays a signal."""
    if termios is None or not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    during = termios.tcgetattr(sys.stdin)
    during[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, during)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
