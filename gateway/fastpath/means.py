"""What the fast path works with, in the one gateway process as in a worker beside it."""

from __future__ import annotations

from typing import Protocol

from gateway.config import ModelSpec
from gateway.journey import FigureBook
from gateway.metrics import Metrics
from gateway.preparing import Preparer
from gateway.routing import Routing
from gateway.scenarios import ScenarioBook
from gateway.schemas import Conversation, Prompt
from gateway.settings import Settings
from gateway.tickets import Ticket


class Desk(Protocol):
    """What is asked before there is a place (``line.Line``)."""

    @property
    def routing(self) -> Routing: ...
    @property
    def figures(self) -> FigureBook: ...
    @property
    def preparer(self) -> Preparer: ...
    async def count_tokens(self, spec: ModelSpec, prompt: Prompt | Conversation) -> int | None: ...


class Places(Protocol):
    def place(self, model: str, mark: int) -> Ticket | None:
        """A place in the engine now; None where a request has to wait for one, or is refused."""
        ...


class Means(Protocol):
    """What the path works with: the gateway's services, or those of a worker."""

    @property
    def settings(self) -> Settings: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def scenarios(self) -> ScenarioBook: ...
    @property
    def generations(self) -> Desk: ...
    @property
    def manager(self) -> Places: ...
