"""What goes into the scheduler and what comes out: policies, events, actions, views. No behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


class State(StrEnum):
    """Of a model on its device. All but ``STOPPED`` and ``FAILED`` hold memory."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    FAILED = "failed"


# Policies: fixed at start, from the registry and the settings.


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """One model and its place. ``footprint_bytes`` is the declared value, used until one is learnt."""

    id: str
    device: str
    footprint_bytes: int
    max_concurrent: int = 64
    max_queue: int = 256
    priority: int = 0
    """Higher first: does not wait ``max_wait_s`` to replace a model of lower priority."""
    pinned: bool = False
    """Never evicted, and brought back when it dies."""
    preload: bool = False
    idle_timeout_s: float | None = None
    managed: bool = True
    """False: somebody else runs the engine. It costs no capacity and is never started or stopped."""

    @property
    def comes_back(self) -> bool:
        """It is to be resident whether or not anybody asks: a want of room only puts it off."""
        return self.pinned or self.preload


@dataclass(frozen=True, slots=True)
class DevicePolicy:
    id: str
    capacity_bytes: int


@dataclass(frozen=True, slots=True)
class SwitchPolicy:
    """How models share a device that cannot hold them all. ``docs/SWITCHING.md`` explains each."""

    max_wait_s: float = 30
    min_residency_s: float = 10
    default_model: str | None = None
    return_to_default_after_s: float | None = None
    keep_abandoned_loads: bool = False
    backoff_initial_s: float = 2
    backoff_max_s: float = 60
    hold_idle_gaps: float = 3
    """An idle resident is kept this many of its usual gaps between requests before it counts as left."""


# Events: what happened in the world.


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request asks for its model. ``deadline`` is on the scheduler's clock: Refuse comes when it passes.

    ``mark`` knows a request that was refused by a full queue when it comes again; None: it never does.
    """

    request_id: int
    model: str
    deadline: float | None = None
    priority: int = 0
    mark: int | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """The client went away, wherever its request was. A permit that it held is released."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A granted request ended, well or not. Its permit is released.

    ``at``: when a slot that was lent was used the last time; None: now.
    """

    request_id: int
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The engine answers. ``footprint_bytes`` is what its start took from the device, if that is known."""

    model: str
    footprint_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The engine could not be started, and nothing of it is left on the device."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """The engine is gone and its memory is back: the answer to Stop and to CancelStart."""

    model: str


@dataclass(frozen=True, slots=True)
class StopFailed:
    """The engine, or its memory, is still there. Stop(force) is tried again after a back-off."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class Died:
    """The engine ended by itself or was judged sick. Stop(force) follows, to have its memory back."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class LoadAsked:
    """Somebody wants the model resident without a request. Ends a back-off."""

    model: str


@dataclass(frozen=True, slots=True)
class UnloadAsked:
    """Somebody wants the model gone. Whoever waits for it is refused; ``force`` does not drain."""

    model: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class FootprintLearnt:
    model: str
    bytes: int


@dataclass(frozen=True, slots=True)
class ReplicasChanged:
    """So many engines answer for the model, each with room for ``max_concurrent``. Never counts below one."""

    model: str
    count: int


@dataclass(frozen=True, slots=True)
class NeighbourUses:
    """Memory of the device that processes which are not ours hold now."""

    device: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Found:
    """Seen at the caller's own start, before the first Tick: the engine of a managed model is not gone.

    It books the memory that is really held and decides nothing; what it allows is decided at the next
    Tick. ``starting`` is answered by Start, ``stopping`` by Stop: join what is under way, and report its
    end as usual. Ignored for a model that is known to hold memory already, but for ``ready``, which is
    then Started.
    """

    model: str
    state: Literal["ready", "starting", "stopping"]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. Harmless at any moment; the first one begins the preloads and the timer."""


ModelEvent = (
    Started
    | StartFailed
    | Stopped
    | StopFailed
    | Died
    | LoadAsked
    | UnloadAsked
    | FootprintLearnt
    | ReplicasChanged
    | Found
)
Event = Arrived | Left | Finished | ModelEvent | NeighbourUses | Tick


# Actions: what the manager must do now, in this order.

RefusalCode = Literal[
    "queue_full", "start_failed", "does_not_fit", "deadline", "unloaded", "unavailable", "unknown_model"
]


@dataclass(frozen=True, slots=True)
class Grant:
    """The request may go to its engine. It holds a permit until Finished or Left."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Refuse:
    request_id: int
    code: RefusalCode
    message: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Answered by Started or StartFailed."""

    model: str


@dataclass(frozen=True, slots=True)
class CancelStart:
    """Nobody waits for this load any more. Answered by Stopped once it is undone."""

    model: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Answered by Stopped or StopFailed. Without ``force`` nothing is in flight."""

    model: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class Changed:
    model: str
    state: State
    reason: str | None = None
    makes_room_for: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send Tick at this time. Replaces the last one; a Tick that comes early is harmless."""

    at: float


Action = Grant | Refuse | Start | CancelStart | Stop | Changed | WakeAt


# Views: snapshots for people and for headers.

Phase = Literal["queued", "draining", "loading", "ready"]


@dataclass(frozen=True, slots=True)
class Outlook:
    """Where a request stands. ``position`` counts from 1 within its model's queue, 0 once granted.
    ``eta_s`` is the seconds to its grant, None until every part of it has been measured once, and None
    while a load takes longer than it usually does."""

    phase: Phase
    position: int
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class ModelView:
    state: State
    since: float
    reason: str | None
    waiting: int
    in_flight: int
    last_start_s: float | None
    footprint_bytes: int
    retry_at: float | None
