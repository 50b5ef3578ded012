"""Waiting: for a call that may never return, and for the word to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_LOOK_EVERY_S: Final = 0.1


class Stop:
    """The word to stop, as a signal's handler may give it.

    There is no lock in it on purpose: a handler runs in the midst of whatever the main thread does, and would
    wait for ever for a lock that the main thread holds.
    """

    def __init__(self) -> None:
        self.asked = False

    def ask(self, *_: object) -> None:
        """Fits as a handler."""
        self.asked = True

    def wait(self, timeout_s: float) -> None:
        """Blocks for that long, or until told to stop and a moment."""
        deadline_s = time.monotonic() + timeout_s
        while not self.asked and (left_s := deadline_s - time.monotonic()) > 0:
            time.sleep(min(left_s, _LOOK_EVERY_S))


class Patience(Generic[T]):
    """Makes one call at a time in a thread of its own, which does not keep the process alive.

    A driver can hang for minutes. Signals are obeyed meanwhile, and who asks again waits for the same answer.
    """

    def __init__(self, call: Callable[[], T], timeout_s: float, stop: Stop) -> None:
        self._call = call
        self._timeout_s = timeout_s
        self._stop = stop
        self._pending: _Pending[T] | None = None

    def ask(self) -> T:
        """The answer. Raises what the call raises, and TimeoutError after ``timeout_s`` or when to stop."""
        if self._pending is None:
            self._pending = _Pending(self._call)
        deadline_s = time.monotonic() + self._timeout_s
        while not self._pending.done.wait(_LOOK_EVERY_S):
            if self._stop.asked or time.monotonic() >= deadline_s:
                raise TimeoutError
        done, self._pending = self._pending, None
        return done.answer()


class _Pending(Generic[T]):
    """A call on its way."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._results: list[T] = []
        self._error: BaseException | None = None
        self.done = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:  # it belongs to who asked
            self._error = error
        self.done.set()

    def answer(self) -> T:
        """What the call gave, or raised."""
        if self._error is not None:
            raise self._error
        return self._results[0]
