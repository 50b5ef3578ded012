"""Calls that may never return, made so that only their answer is missing."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_LOOK_EVERY_S: Final = 0.1


class Patience(Generic[T]):
    """Makes one call at a time in a thread of its own, which does not keep the process alive.

    A driver can hang for minutes. Signals are obeyed meanwhile, and who asks again waits for the same answer.
    """

    def __init__(self, call: Callable[[], T], timeout_s: float, stop: threading.Event) -> None:
        self._call = call
        self._timeout_s = timeout_s
        self._stop = stop
        self._answers: queue.SimpleQueue[T | BaseException] = queue.SimpleQueue()
        self._asking = False

    def ask(self) -> T:
        """The answer. Raises what the call raises, and TimeoutError after ``timeout_s`` or when to stop."""
        if not self._asking:
            self._asking = True
            threading.Thread(target=self._answer, daemon=True).start()
        answer = self._wait()
        self._asking = False
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _wait(self) -> T | BaseException:
        deadline_s = time.monotonic() + self._timeout_s
        while time.monotonic() < deadline_s and not self._stop.is_set():
            try:
                return self._answers.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                continue
        raise TimeoutError

    def _answer(self) -> None:
        try:
            self._answers.put(self._call())
        except BaseException as error:  # it belongs to who asked
            self._answers.put(error)
