"""Stop strings taken out of a text that arrives in pieces. Pure."""

from __future__ import annotations

from collections.abc import Iterable


class StopStrings:
    """Lets text through up to the first stop string, however the text is split.

    The stop string that is complete first ends the text; of two that are complete at once the longer one
    counts. What could still become a stop string is held back until the next piece decides. ``matched`` is
    the one that was ``found``.
    """

    __slots__ = ("_begins", "_held", "_stops", "found", "matched")

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._begins = tuple({stop[0].encode("utf-8", "surrogatepass") for stop in self._stops})
        self._held = ""
        self.found = False
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """What can be shown now; nothing any more once a stop string was ``found``."""
        if self.found or not self._stops:
            return "" if self.found else text
        text = self._held + text
        first = self._first_stop(text)
        if first is not None:
            cut, self.matched = first
            self.found = True
            self._held = ""
            return text[:cut]
        kept = self._doubtful_characters(text)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def passes(self, text: bytes) -> bool:
        """Whether ``text``, in UTF-8, goes through as it is, and need not be fed.

        Then nothing is held back, and no stop string begins in it.
        """
        if self.found or self._held:
            return False
        for begin in self._begins:  # noqa: SIM110  a generator for each token costs more than all else here
            if text.find(begin) >= 0:  # several times as quick as `in`
                return False
        return True

    def flush(self) -> str:
        """What was held back, once the text has ended without a stop string."""
        held, self._held = self._held, ""
        return held

    def _first_stop(self, text: str) -> tuple[int, str] | None:
        """Where the first stop string begins, and which it is."""
        starts = ((text.find(stop), stop) for stop in self._stops)
        ends = [(start + len(stop), start, stop) for start, stop in starts if start >= 0]
        return min(ends)[1:] if ends else None

    def _doubtful_characters(self, text: str) -> int:
        """The length of the longest end of ``text`` that a stop string begins with."""
        return max(_overlap(text, stop) for stop in self._stops)


def _overlap(text: str, stop: str) -> int:
    at = max(0, len(text) - len(stop) + 1)
    while (at := text.find(stop[0], at)) >= 0:
        if stop.startswith(text[at:]):
            return len(text) - at
        at += 1
    return 0
