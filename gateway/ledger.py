"""What is known about the memory of one device: what models take, what others use, where there is room.

Two questions, two figures. What a resident model **holds** is measured as the difference that its start made
to the whole device; figures per process are not to be had on every card. What its next start **needs** is
something else, because some engines take what they find: TGI and vLLM turn all free memory up to a share of
the card into cache, so alone they hold nearly everything, and beside a desktop a little less.

=====================================  ==========================  =================================
what its last measured start showed    it holds, while resident    its next start needs
=====================================  ==========================  =================================
nothing yet                            declared                    declared
the reader tells its memory apart      its peak                    its peak
it took a part of the device           measured                    measured, be it more or less
it filled the device, or took far      measured                    declared: that it took more does
more than declared                                                 not say that it needs more
the same, but then a start beside      measured                    what it took, or all that it
others ran out of memory                                           could have alone
=====================================  ==========================  =================================

So one that fills the card keeps everybody else out while it is there, does not become unplaceable because a
desktop grew a little, and finds its place beside another if it was declared that small. More than the budget
of the device is never asked for, unless it was declared.

What cannot be attributed is not blamed on neighbours: their figure decides whether a model can ever fit,
whereas memory that is not there is found out before each start. It stays as it was last known while a start
is under way, while an engine runs whose start was not seen, while one stops, while a stopped one's memory
comes back, and when ours may just have grown a little.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

log = logging.getLogger(__name__)

FULL_SHARE = 0.8
"""TGI and vLLM fill the card to about 0.9 of it, a second one beside another to little less."""
FAR_MORE_THAN_DECLARED = 1.5
GROWTH_SHARE = 0.05
"""An engine may grow this much after its start: work buffers, fragments."""
NOISE_BYTES = 256 * 2**20
"""Desktops move this much all the time."""

_OUT_OF_MEMORY = re.compile(
    r"out.?of.?memory|not enough memory|(?:failed|unable|cannot) to allocate|cannot allocate memory"
    r"|no available memory|free memory .* less than",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Reading:
    """Of the whole device, everybody's use. ``by_model``: ours, from a reader that tells them apart."""

    total_bytes: int
    used_bytes: int
    by_model: Mapping[str, int] | None = None

    @property
    def free_bytes(self) -> int:
        return max(0, self.total_bytes - self.used_bytes)


@dataclass(frozen=True, slots=True)
class Room:
    """Whether a start may begin. ``free_bytes`` respects both the budget and the real free memory."""

    needed_bytes: int
    free_bytes: int

    @property
    def missing_bytes(self) -> int:
        return max(0, self.needed_bytes - self.free_bytes)

    @property
    def fits(self) -> bool:
        return self.missing_bytes == 0


@dataclass(slots=True)
class _Account:
    """One model. ``held`` is set while it is resident and its start was measured."""

    declared: int
    taken: int | None = None
    takes_what_it_finds: bool = False
    held: int | None = None
    ran_out_with: int | None = None  # free bytes in which a start beside others ran out of memory


@dataclass(slots=True)
class _Start:
    """A start under way."""

    used_bytes: int | None
    free_bytes: int
    beside_others: bool
    neighbour_moved: bool
    overlapped: bool = False


class Ledger:
    """Owner of what is known about one device's memory. Decides only; reads, waits and starts nothing.

    ``resident`` in its methods: those of ours that hold memory now. A model that is being started may be
    among them, or not.
    """

    def __init__(self, device: str, capacity_bytes: int, declared: Mapping[str, int]) -> None:
        self.device = device
        self.capacity_bytes = capacity_bytes
        self._accounts = {model: _Account(figure) for model, figure in declared.items()}
        self._starts: dict[str, _Start] = {}
        self._absent: set[str] = set()  # wait for room: nothing of them runs
        self._stopping: set[str] = set()  # give memory back piece by piece, and hold some still
        self._leaving: dict[str, int] = {}  # stopped, and what they held
        self._neighbour: int | None = None  # as last known for certain
        self._restless = False  # whether that figure moved since the last start
        self._shortfall = 0  # a card sold as 12 GiB has a little less
        self._encroachment = 0
        self._unmeasured_told = False

    # Figures.

    def footprint(self, model: str) -> int:
        """What it counts for: what it holds, if it is resident and measured, else what a start needs."""
        held = self._accounts[model].held
        return self.needed_bytes(model) if held is None else min(held, self.capacity_bytes)

    def needed_bytes(self, model: str) -> int:
        """What must be free for its next start; the table in the module's docstring."""
        account = self._accounts[model]
        measured = account.taken is not None and not account.takes_what_it_finds
        needed = account.taken if measured and account.taken else account.declared
        if account.ran_out_with is not None and account.ran_out_with >= needed:
            alone = self.capacity_bytes - self._encroachment
            needed = max(needed, min(account.taken or alone, alone))
        whole_device = self.capacity_bytes - self._shortfall
        return needed if account.declared > self.capacity_bytes else min(needed, whole_device)

    def neighbour_bytes(self, reading: Reading, resident: Collection[str]) -> int:
        """What processes that are not ours use: all use but ours, not below 0, as certain as it can be."""
        unsettled = self._absent | self._stopping | self._starts.keys()  # hold anything from 0 to all
        staying = [model for model in resident if model not in unsettled]
        rest = self.unattributed_bytes(reading, staying)
        known = self._neighbour
        if not self._certain(reading, resident):
            return min(known or 0, rest)
        grown = known is not None and known < rest <= known + self._growth(reading, staying)
        return known if known is not None and grown else rest

    def unattributed_bytes(self, reading: Reading, resident: Collection[str]) -> int:
        """All use but what ours are known to take, not below 0. ``neighbour_bytes`` is more careful."""
        told_apart = self._told_apart(reading)
        ours = sum(self._held(model, reading) for model in resident if model not in told_apart)
        return max(0, reading.used_bytes - sum(told_apart.values()) - ours)

    def encroachment_bytes(self, reading: Reading, resident: Collection[str]) -> int:
        """By how much neighbours, or a card smaller than the budget, lower what our models may take."""
        neighbour = self.neighbour_bytes(reading, resident)
        return min(self.capacity_bytes, max(0, neighbour + self.capacity_bytes - reading.total_bytes))

    def room_for(self, model: str, reading: Reading | None, resident: Collection[str]) -> Room:
        """Whether a start of ``model`` may begin now, beside ``resident``. Without a reading: as declared."""
        ours = sum(self._held(name, reading) for name in resident if name != model)
        if reading is None:
            free = self.capacity_bytes - self._encroachment - ours
        else:
            free = min(self.capacity_bytes - ours, reading.free_bytes)
        return Room(self.needed_bytes(model), max(0, free))

    # What happened.

    def observe(self, reading: Reading | None, resident: Collection[str]) -> int:
        """Takes note of a reading between starts and stops; gives ``encroachment_bytes``, for the scheduler.

        Figures of models that the reader can tell apart grow with it: compare ``footprint`` afterwards.
        """
        if reading is None:
            self._tell_unmeasured()
            return self._encroachment
        self._unmeasured_told = False
        for model in set(resident) & set(reading.by_model or ()) - set(self._starts):
            self._learn_exactly(model, reading)
        self._shortfall = min(self.capacity_bytes, max(0, self.capacity_bytes - reading.total_bytes))
        self._leaving = self._left_over(reading, resident)
        neighbour = self.neighbour_bytes(reading, resident)
        self._encroachment = self.encroachment_bytes(reading, resident)
        if self._certain(reading, resident):
            self._restless |= self._neighbour is not None and abs(neighbour - self._neighbour) > NOISE_BYTES
            self._neighbour = neighbour
        return self._encroachment

    def awaits_room(self, model: str) -> None:
        """Nothing of it runs, and its start has not begun; what is used is not its own."""
        self._absent.add(model)
        self._stopping.discard(model)

    def before_start(self, model: str, reading: Reading | None, resident: Collection[str] = ()) -> None:
        """The start begins now. ``after_start``, ``start_failed`` or ``stopped`` must follow."""
        others = [name for name in resident if name != model]
        self._came(model)
        free = self.room_for(model, reading, others).free_bytes
        self._leaving.clear()  # what has not come back by now is no longer ours to explain
        self.observe(reading, others)
        overlapped = bool(self._starts)
        self._overlap()
        used = None if reading is None else reading.used_bytes
        self._starts[model] = _Start(used, free, bool(others), self._restless, overlapped)
        self._restless = False

    def after_start(self, model: str, reading: Reading | None) -> int | None:
        """The engine answers. What it takes, or None when that cannot be told; then a log line says why."""
        self._came(model)
        start = self._starts.pop(model, None)
        account = self._accounts[model]
        account.held = None
        if start is None or reading is None:
            return None
        if account.ran_out_with is not None and start.free_bytes <= account.ran_out_with:
            account.ran_out_with = None  # it does do with less, after all
        if reading.by_model is not None:
            self._learn_exactly(model, reading)
        elif taken := self._difference(model, start, reading):
            full = reading.used_bytes >= reading.total_bytes * FULL_SHARE
            account.takes_what_it_finds = full or taken > account.declared * FAR_MORE_THAN_DECLARED
            account.taken = account.held = taken
        if account.held is not None:
            self._tell_learnt(model, account.held)
        return account.held

    def start_failed(self, model: str, reason: str) -> None:
        """The start failed and its process is gone; see ``released``. ``reason``: the engine's last words.

        When it ran out of memory beside others, its next start will ask for more room.
        """
        start = self._starts.get(model)
        self.stopped(model)
        if start is None:
            return
        if start.beside_others and out_of_memory(reason):
            self._accounts[model].ran_out_with = start.free_bytes
            needed = format_bytes(self.needed_bytes(model))
            free = format_bytes(start.free_bytes)
            log.warning("%s: %s ran out of memory with %s free; it gets %s", self.device, model, free, needed)

    def stopping(self, model: str) -> None:
        """It was told to stop. ``stopped`` follows; until then no figure of others is taken as certain."""
        self._stopping.add(model)

    def stopped(self, model: str) -> bool:
        """Its process is gone. Its memory may take a moment to come back; see ``released``.

        False when there was none, as its start had not begun: then nothing comes back.
        """
        self._stopping.discard(model)
        if model in self._absent:
            return False
        self._leaving[model] = self._held(model, None)
        self._starts.pop(model, None)
        self._accounts[model].held = None
        self._overlap()
        return True

    def released(self, model: str, reading: Reading, resident: Collection[str]) -> bool:
        """Whether the memory of a stopped model has come back."""
        others = [name for name in resident if name != model]
        if reading.by_model is None and self._neighbour is None:
            # Nothing to compare with: it is back when the model could come again.
            return self.room_for(model, reading, others).fits
        return model not in self._left_over(reading, others)

    def settled(self, model: str) -> None:
        """The memory of a stopped model counts as back: what is still used, others use."""
        self._leaving.pop(model, None)

    # Parts.

    def _came(self, model: str) -> None:
        self._absent.discard(model)
        self._stopping.discard(model)

    def _held(self, model: str, reading: Reading | None) -> int:
        """What a resident counts for: at least what it is known to reach, if it was measured."""
        held = self._accounts[model].held
        known = self.needed_bytes(model) if held is None else held
        return known if reading is None else max(self._told_apart(reading).get(model, 0), known)

    def _told_apart(self, reading: Reading) -> Mapping[str, int]:
        return {} if reading.by_model is None else reading.by_model

    def _certain(self, reading: Reading, resident: Collection[str]) -> bool:
        """Whether all of our use is known."""
        if reading.by_model is not None:
            return True
        there = set(resident) - self._absent
        measured = all(self._accounts[model].held is not None for model in there)
        moving = self._starts or there & self._stopping or self._left_over(reading, there)
        return measured and not moving

    def _growth(self, reading: Reading, resident: Collection[str]) -> int:
        """How much of ours may have been added since the starts, where that cannot be told."""
        if reading.by_model is not None:
            return 0
        return sum(round(self._held(model, reading) * GROWTH_SHARE) for model in resident)

    def _left_over(self, reading: Reading, resident: Collection[str]) -> dict[str, int]:
        """Stopped models whose memory may still be on its way back.

        A process gives back all or nothing, so half of it decides; the rest is others who moved meanwhile.
        """
        leaving = {model: held for model, held in self._leaving.items() if model not in resident}
        if reading.by_model is not None:
            return {model: held for model, held in leaving.items() if reading.by_model.get(model)}
        allowed = (self._neighbour or 0) + max(NOISE_BYTES, sum(leaving.values()) // 2)
        return leaving if self.unattributed_bytes(reading, resident) > allowed else {}

    def _difference(self, model: str, start: _Start, reading: Reading) -> int | None:
        """What the start took from the device, or None with a log line."""
        if start.used_bytes is None:
            return None
        taken = reading.used_bytes - start.used_bytes
        declared = self._accounts[model].declared
        if start.overlapped:
            why = "another model of ours started or stopped meanwhile"
        elif taken <= 0:
            why = "use of the device did not grow: somebody else gave memory back meanwhile"
        elif start.neighbour_moved and not declared / 2 <= taken <= declared * 2:
            why = f"{format_bytes(taken)} is not plausible while others take and give memory back"
        else:
            return taken
        log.info("%s: what %s takes is not learnt from this start: %s", self.device, model, why)
        return None

    def _learn_exactly(self, model: str, reading: Reading) -> None:
        """The peak counts: main memory is taken as it is touched."""
        account = self._accounts[model]
        now = self._told_apart(reading).get(model, 0)
        if now:
            account.taken = account.held = max(now, account.taken or 0)

    def _overlap(self) -> None:
        for start in self._starts.values():
            start.overlapped = True

    def _tell_learnt(self, model: str, taken: int) -> None:
        declared, budget = format_bytes(self._accounts[model].declared), format_bytes(self.capacity_bytes)
        log.info("%s: %s takes %s (declared: %s)", self.device, model, format_bytes(taken), declared)
        if taken > self.capacity_bytes:
            log.warning("%s: %s is beyond the budget of %s", self.device, model, budget)

    def _tell_unmeasured(self) -> None:
        if not self._unmeasured_told:
            log.warning("%s is not measured: the memory declared for its models is trusted", self.device)
        self._unmeasured_told = True


def out_of_memory(text: str) -> bool:
    """Whether an engine's last words say that memory ran out."""
    return _OUT_OF_MEMORY.search(text) is not None


def format_bytes(count: int) -> str:
    """For people: ``10.0 GiB``."""
    value = float(count)
    if count < 1024:
        return f"{count} B"
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if round(value, 1) < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"
