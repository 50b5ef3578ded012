"""What is known of the request that is being answered, for whoever records it: found from anywhere below.

The edge begins it, those below say what they know, and the edge reads it when the answer has left. It
follows the request into the tasks that it starts.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field

NO_ARM = "none"
NO_MODEL = "none"


@dataclass(slots=True)
class Trail:
    """One request's. ``arm`` is the model drawn in a split; several generations may belong to one request."""

    model: str = NO_MODEL
    arm: str = NO_ARM
    answered: int = 0
    """Generations of it that came to their end; -1 once one did not."""
    parent: dict[str, str] = field(default_factory=dict)
    """Headers that tie what the engine does to the client's trace."""

    def about(self, model: str, arm: str) -> None:
        """Who answers, as far as is known by now."""
        self.model, self.arm = model, arm

    def ended(self, *, well: bool) -> None:
        """One generation is over."""
        self.answered = self.answered + 1 if well and self.answered >= 0 else -1


_CURRENT: ContextVar[Trail | None] = ContextVar("trail", default=None)


def begin() -> Trail:
    """The trail of a request that has come in; what runs below from here on finds it."""
    trail = Trail()
    _CURRENT.set(trail)
    return trail


def current() -> Trail:
    """That of the request being answered; outside of one, a blank that nobody reads."""
    return _CURRENT.get() or Trail()
