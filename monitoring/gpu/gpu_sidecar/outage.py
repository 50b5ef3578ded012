"""Faults that last are said once."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class Outage:
    """Says once that something is wrong, again when the reason changes, and once when it is over."""

    def __init__(self, what: str, wrong: str = "cannot be read", right: str = "can be read again") -> None:
        self._what = what
        self._wrong = wrong
        self._right = right
        self._reason: str | None = None

    def began(self, reason: str) -> None:
        if reason != self._reason:
            log.warning("%s %s: %s", self._what, self._wrong, reason)
        self._reason = reason

    def ended(self) -> None:
        if self._reason is not None:
            log.info("%s %s", self._what, self._right)
        self._reason = None
