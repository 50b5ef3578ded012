"""The driver's library: opened, read, and opened anew when it or a card has gone."""

from __future__ import annotations

import importlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gpu_sidecar.card import Card, CardGone, CardReader, reason_of
from gpu_sidecar.outage import Outage

log = logging.getLogger(__name__)

_PAUSE_INITIAL_S: Final = 1.0
_VERSION_MISMATCH: Final = 18  # NVML_ERROR_LIB_RM_VERSION_MISMATCH


class StaleLibrary(Exception):
    """The driver was exchanged under a library that stays loaded for as long as this process lives."""


@dataclass(frozen=True, slots=True)
class Round:
    """One reading of everything. ``lost`` has the index and uuid of cards that were read before."""

    at_s: float
    cards: tuple[Card, ...]
    lost: tuple[tuple[int, str], ...]


class Driver:
    """Reads all cards. Faults are said once, and what can be read meanwhile is.

    A card that has gone may need the library closed and opened before it comes back, as does a container that
    has lost its devices. So while anything is missing that is done again and again, after 1 s at first and
    ``longest_pause_s`` at last. Nothing else in this process uses the library, which counts its users, so
    closing it closes it. A missing library is looked for at each try: nvidia-ml-py remembers one that it
    found, not that there was none.
    """

    def __init__(
        self, processes: int, longest_pause_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._processes = processes
        self._longest_pause_s = longest_pause_s
        self._clock = clock
        self._nvml: Any = None  # the open library
        self._reopen_at_s = -math.inf
        self._pause_s = min(_PAUSE_INITIAL_S, longest_pause_s)
        self._worked = False
        self._known: dict[str, int] = {}
        self._outage = Outage("NVML")
        self._outages: dict[str, Outage] = {}
        self._untold: dict[str, set[str]] = {}

    def read(self) -> Round:
        """Blocks for the driver. Raises StaleLibrary when only a new process helps."""
        if self._clock() >= self._reopen_at_s:
            self._postpone()
            self.close()
            self._open()
        count = self._count()
        cards, errors = self._read_all(count or 0)
        self._welcome(cards)
        lost = tuple((index, uuid) for uuid, index in self._known.items() if uuid not in cards)
        if count is not None:
            self._mourn(lost, errors)
        if cards and not errors and not lost:
            self._reopen_at_s, self._pause_s = math.inf, min(_PAUSE_INITIAL_S, self._longest_pause_s)
        elif math.isinf(self._reopen_at_s):
            self._postpone()
        return Round(self._clock(), tuple(cards.values()), lost)

    def close(self) -> None:
        """The next reading opens it again when its time has come."""
        nvml, self._nvml = self._nvml, None
        if nvml is None:
            return
        try:
            nvml.nvmlShutdown()
        except nvml.NVMLError as error:
            log.debug("closing the library: %s", error)

    def _postpone(self) -> None:
        self._reopen_at_s = self._clock() + self._pause_s
        self._pause_s = min(self._pause_s * 2, self._longest_pause_s)

    def _open(self) -> None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            self._outage.began("nvidia-ml-py is not installed: pip install nvidia-ml-py")
            return
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            self._failed(error.value, reason_of(nvml, error))
        else:
            self._nvml = nvml

    def _failed(self, code: int, reason: str) -> None:
        self._give_up_if_stale(code)
        self._outage.began(reason)

    def _give_up_if_stale(self, code: int) -> None:
        """A library that never worked is not an old one: then the driver may still come to fit it."""
        if self._worked and code == _VERSION_MISMATCH:
            raise StaleLibrary

    def _count(self) -> int | None:
        """How many cards the driver lists; None when it cannot be asked."""
        if self._nvml is None:
            return None
        try:
            count = int(self._nvml.nvmlDeviceGetCount())
        except self._nvml.NVMLError as error:
            self._failed(error.value, reason_of(self._nvml, error))
            return None
        if count or self._known:
            self._outage.ended()
        else:
            self._outage.began("the driver lists no card")
        return count

    def _read_all(self, count: int) -> tuple[dict[str, Card], dict[int, str]]:
        """The cards by uuid, and why others could not be read, by index."""
        cards: dict[str, Card] = {}
        errors: dict[int, str] = {}
        for index in range(count):
            try:
                card = CardReader(self._nvml, self._processes).read(index)
            except CardGone as gone:
                self._give_up_if_stale(gone.code)
                errors[index] = str(gone)
            else:
                cards[card.uuid] = card
        return cards, errors

    def _welcome(self, cards: Mapping[str, Card]) -> None:
        """Remember which cards there are, and say once of each what it does not tell."""
        for uuid, card in cards.items():
            self._worked = True
            self._known[uuid] = card.index
            for one in (uuid, _nameless(card.index)):
                if one in self._outages:
                    self._outages[one].ended()
            told_of = self._untold.setdefault(uuid, set())
            if fresh := [what for what in card.untold if what not in told_of]:
                log.info("card %d (%s) does not tell: %s", card.index, uuid, ", ".join(fresh))
                told_of.update(fresh)

    def _mourn(self, lost: tuple[tuple[int, str], ...], errors: Mapping[int, str]) -> None:
        """Say of cards that cannot be read why, once."""
        unread = {uuid: index for index, uuid in lost}
        unread |= {_nameless(index): index for index in errors if index not in unread.values()}
        for uuid, index in unread.items():
            outage = self._outages.setdefault(uuid, Outage(f"card {index} ({uuid})"))
            outage.began(errors.get(index, "the driver does not list it"))


def _nameless(index: int) -> str:
    """Stands for the uuid of a card that was never read."""
    return f"number {index}"
