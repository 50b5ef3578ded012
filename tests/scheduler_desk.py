"""A scheduler at a desk: one says what happens and sees what it does."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.scheduler import (
    Action,
    Arrived,
    Changed,
    DevicePolicy,
    Event,
    LoadAsked,
    ModelPolicy,
    Refuse,
    Scheduler,
    Started,
    State,
    SwitchPolicy,
    Tick,
    WakeAt,
)

GB = 10**9
MAX_WAIT_S, MIN_RESIDENCY_S = 30.0, 10.0


def model(name: str, gb: float = 8, **settings: object) -> ModelPolicy:
    return ModelPolicy(name, "gpu", int(gb * GB), **settings)  # type: ignore[arg-type]


@dataclass
class Desk:
    """``say`` returns the actions; announcements are left out and the timer is kept in ``wake``."""

    models: list[ModelPolicy] = field(default_factory=lambda: [model("a"), model("b")])
    capacity_gb: float = 12
    policy: SwitchPolicy = field(default_factory=SwitchPolicy)
    begun: bool = True  # the first Tick has been said

    def __post_init__(self) -> None:
        devices = [DevicePolicy("gpu", int(self.capacity_gb * GB))]
        self.scheduler = Scheduler(self.models, devices, self.policy, 0.0)
        self.wake: float | None = None
        if self.begun:
            self.say(0, Tick())

    def say(self, at: float, *events: Event) -> list[Action]:
        told: list[Action] = []
        for event in events:
            for action in self.scheduler.handle(event, at):
                if isinstance(action, WakeAt):
                    self.wake = action.at
                elif not isinstance(action, Changed):
                    told.append(action)
        return told

    def state(self, name: str) -> State:
        return self.scheduler.view(name).state

    def resident(self, name: str, *, at: float = 0.0, busy: int = 0) -> Desk:
        """Brings the model in, with ``busy`` requests (900, 901, …) in flight."""
        self.say(at, LoadAsked(name), Started(name), *(Arrived(900 + n, name) for n in range(busy)))
        return self


def refusal(actions: list[Action], request_id: int) -> Refuse:
    (found,) = [a for a in actions if isinstance(a, Refuse) and a.request_id == request_id]
    return found
