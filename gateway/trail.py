"""What is known of the request that is being answered, for whoever records it: found from anywhere below.

The edge begins it, those below say what they know, and the edge reads it when the answer has left. It
follows the request into the tasks that it starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

NONE = "none"
"""The label of a request that named no model, or whose model was drawn in no split."""

Attribute = str | int | float | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the way, in seconds on the monotonic clock. ``error`` is the type of what ended it."""

    name: str
    begun: float
    ended: float
    error: str | None = None


@dataclass(slots=True)
class Trail:
    """One request's; several generations may belong to it. ``arm`` is the model drawn in a split.

    ``headers`` tie what engines do to the client's trace. ``stages`` and ``attributes`` are gathered only
    where ``traced``.
    """

    model: str = NONE
    arm: str = NONE
    answered: bool = False
    failed_with: int | None = None
    """The status of the error that a generation of it ended with."""
    left: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    traced: bool = False
    stages: list[Stage] = field(default_factory=list)
    attributes: dict[str, Attribute] = field(default_factory=dict)

    def about(self, model: str, arm: str = NONE) -> None:
        """Who answers, as far as is known by now."""
        self.model, self.arm = model, arm

    def stage(self, name: str, begun: float, ended: float, error: str | None = None) -> None:
        if self.traced and ended >= begun > 0:
            self.stages.append(Stage(name, begun, ended, error))

    def tell(self, attributes: Mapping[str, Attribute | None]) -> None:
        if self.traced:
            self.attributes |= {name: value for name, value in attributes.items() if value is not None}

    def status_class(self, status: int) -> str:
        """How it ended for the client: ``2xx`` and so on, or ``left``. ``status`` is 0 before there is one.

        A stream has its status before its end: one that broke off counts with what its error says.
        """
        if 0 < status < 300 and self.failed_with is not None:
            status = self.failed_with
        elif not status or (status < 300 and self.left):
            return "left"
        return f"{status // 100}xx"


_CURRENT: ContextVar[Trail | None] = ContextVar("trail", default=None)


def begin() -> Trail:
    """The trail of a request that has come in; what runs below from here on finds it."""
    trail = Trail()
    _CURRENT.set(trail)
    return trail


def current() -> Trail:
    """That of the request being answered; outside of one, a blank that nobody reads."""
    return _CURRENT.get() or Trail()
