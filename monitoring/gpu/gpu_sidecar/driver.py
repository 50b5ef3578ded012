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
_PAUSE_MAX_S: Final = 60.0
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
    60 s at last. Nothing else in this process uses the library: it counts its users, so closing is closing.
    A missing library is looked for at each try: nvidia-ml-py remembers one that it found, not that there was
    none.
    """

    def __init__(self, processes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._processes = processes
        self._clock = clock
        self._nvml: Any = None  # the open library
        self._reopen_at_s = -math.inf
        self._pause_s = _PAUSE_INITIAL_S
        self._worked = False
        self._known: dict[str, int] = {}
        self._outage = Outage("NVML")
        self._outages: dict[str, Outage] = {}
        self._untold: dict[str, tuple[str, ...]] = {}

    def read(self) -> Round:
        """Blocks for the driver. Raises StaleLibrary when only a new process helps."""
        if self._clock() >= self._reopen_at_s:
            self._postpone()
            self.close()
            self._open()
        cards, errors = self._read_all()
        lost = tuple((index, uuid) for uuid, index in self._known.items() if uuid not in cards)
        self._tell(cards, errors, lost)
        if cards and not errors and not lost:
            self._reopen_at_s, self._pause_s = math.inf, _PAUSE_INITIAL_S
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
        self._pause_s = min(self._pause_s * 2, _PAUSE_MAX_S)

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

    def _read_all(self) -> tuple[dict[str, Card], dict[int, str]]:
        """The cards by uuid, and why others could not be read, by index."""
        cards: dict[str, Card] = {}
        errors: dict[int, str] = {}
        reader = CardReader(self._nvml, self._processes) if self._nvml is not None else None
        for index in range(self._count()):
            try:
                card = reader.read(index) if reader else None
            except CardGone as gone:
                self._give_up_if_stale(gone.code)
                errors[index] = str(gone)
            else:
                if card is not None:
                    cards[card.uuid] = card
        return cards, errors

    def _count(self) -> int:
        if self._nvml is None:
            return 0
        try:
            count = int(self._nvml.nvmlDeviceGetCount())
        except self._nvml.NVMLError as error:
            self._failed(error.value, reason_of(self._nvml, error))
            return 0
        if count:
            self._outage.ended()
        else:
            self._outage.began("the driver lists no card")
        return count

    def _tell(
        self, cards: Mapping[str, Card], errors: Mapping[int, str], lost: tuple[tuple[int, str], ...]
    ) -> None:
        """Say what has changed since the last reading, and remember which cards there are."""
        for uuid, card in cards.items():
            self._worked = True
            self._known[uuid] = card.index
            self._outage_of(card.index, uuid).ended()
            if card.untold != self._untold.get(uuid, ()):
                log.info(
                    "card %d (%s) does not tell: %s", card.index, uuid, ", ".join(card.untold) or "nothing"
                )
                self._untold[uuid] = card.untold
        if self._nvml is None:
            return
        reasons = {uuid: errors.get(index, "the driver does not list it") for index, uuid in lost}
        for index, uuid in lost:
            self._outage_of(index, uuid).began(reasons[uuid])
        for index, reason in errors.items():
            if index not in {index for index, _ in lost}:
                self._outage_of(index, "never read yet").began(reason)

    def _outage_of(self, index: int, uuid: str) -> Outage:
        return self._outages.setdefault(uuid, Outage(f"card {index} ({uuid})"))
