"""One request's way over the replicas of its model: the first, and another one when that may do better.

Only its caller knows whether anything was given to the client yet; from then on nothing is tried again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TypeVar

from gateway.config import ModelSpec
from gateway.errors import EngineError, GatewayError, Overloaded
from gateway.metrics import Metrics
from gateway.replicas import Outcome
from gateway.schemas import Clocks
from gateway.tickets import Begun, Ticket
from gateway.upstream.address import shown
from gateway.upstream.base import ClockTimeout, EngineUnreachable, Truncated, is_suspect

logger = logging.getLogger("gateway.models")

Found = TypeVar("Found")


class Attempts:
    """The tries of one request. ``at`` begins them anew, with each place that the request gets."""

    def __init__(self, spec: ModelSpec, metrics: Metrics) -> None:
        self._spec = spec
        self._metrics = metrics
        self._been: list[str] = []
        self._begun = 0.0
        self._token_came = False

    def clocks(self) -> Clocks:
        """The clocks of the next try. Those of the whole, and of a first token to come, go on."""
        times, spent_s = self._spec.timeouts, perf_counter() - self._begun
        return Clocks(
            connect_s=times.connect_s,
            first_token_s=times.first_token_s - (0.0 if self._token_came else spent_s),
            between_tokens_s=times.between_tokens_s,
            total_s=times.total_s - spent_s,
        )

    async def at(self, ticket: Ticket, send: Callable[[str], Awaitable[Found]]) -> Found:
        """``send`` to one address after another, until one answers. Raises what the last one failed with."""
        self._begun, self._token_came = perf_counter(), False
        self._been = [ticket.visit()]
        return await self._from(self._been[0], ticket, send)

    async def go_on(self, begun: Begun, send: Callable[[str], Awaitable[Found]]) -> Found:
        """The same after a first try that somebody else made. Raises its error, too."""
        self._begun, self._token_came = begun.sent, bool(begun.first_token)
        self._been = [begun.url]
        return await self._from(self._another(begun.error, begun.ticket), begun.ticket, send)

    async def after(
        self, error: GatewayError, ticket: Ticket, send: Callable[[str], Awaitable[Found]]
    ) -> Found:
        """The same again, when an answer broke off of which nothing was given away. Raises ``error``, too."""
        self._token_came = True
        return await self._from(self._another(error, ticket), ticket, send)

    async def _from(self, url: str, ticket: Ticket, send: Callable[[str], Awaitable[Found]]) -> Found:
        while True:
            if logger.isEnabledFor(logging.DEBUG):
                logger.debug("a request for %s goes to %s", self._spec.id, shown(url))
            try:
                return await send(url)
            except GatewayError as error:
                url = self._another(error, ticket)

    def _another(self, error: GatewayError, ticket: Ticket) -> str:
        """The next address. Raises ``error`` when there is none, or it would not help."""
        ticket.left(outcome_of(error), error.message)
        why = why_elsewhere(error)
        left = self.clocks()
        too_late = min(left.first_token_s, left.total_s) <= 0
        if why is None or too_late or len(self._been) > self._spec.routing.max_retries:
            raise error
        url = ticket.visit_another(self._been)
        if url is None:
            raise error
        if is_suspect(error):
            ticket.suspect(str(error), silent=False)
        self._been.append(url)
        self._metrics.count("gateway_retries_total", model=self._spec.id, why=why)
        logger.info("a request for %s goes on to %s: %s", self._spec.id, shown(url), error.message)
        return url


def why_elsewhere(error: GatewayError) -> str | None:
    """Why another engine may do better with the same request; None where it would not, or not in time."""
    if isinstance(error, Overloaded):
        return "overloaded"
    if isinstance(error, EngineUnreachable):
        return "unreachable"
    if isinstance(error, Truncated):
        return "broken"
    if isinstance(error, ClockTimeout) and error.clock == "connect" and error.engine_suspect:
        return "connect_timeout"
    return None


def outcome_of(error: BaseException | None) -> Outcome:
    """What the end of a request without an answer says about the engine that had it."""
    if isinstance(error, Overloaded):
        return "full"
    at_fault = isinstance(error, EngineError) or (error is not None and is_suspect(error))
    return "failed" if at_fault else "unknown"
