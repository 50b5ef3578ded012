"""Who answers when the model that was asked cannot, and how much of the request's time is left for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from gateway.config import ModelSpec
from gateway.errors import (
    EngineError,
    EngineTimeout,
    GatewayError,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
)
from gateway.preparing import GenerationRequest, Prepared
from gateway.routing import Who

logger = logging.getLogger("gateway.generation")

PASSES_ON = (Overloaded, ModelUnavailable, EngineError, EngineTimeout)
"""What another model may have better luck with. A request that is wrong is wrong everywhere."""


class Succession:
    """The models that may answer one request, in their order. ``who`` is the one whose turn it is.

    The request's clocks go on: who comes later has what is left of the first one's waiting time and total
    time, or its own if that is less.
    """

    def __init__(
        self, request: GenerationRequest, who: Who, prepare: Callable[[GenerationRequest], Prepared]
    ) -> None:
        self.who = who
        self._request = request
        self._prepare = prepare
        self._began = time.perf_counter()
        self._first = who.spec
        self._left = list(who.fallback)
        self._reason: GatewayError | None = None
        self._sent_at: float | None = None

    @property
    def has_more(self) -> bool:
        """Whether there is somebody to fall back to."""
        return bool(self._left)

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._began

    def next(self, error: GatewayError, sent_at: float | None) -> Prepared:
        """The request for whoever answers after ``error``. ``sent_at`` is when an engine was called.

        Raises what the client is to be told when nobody is left: why the model that it asked for could not.
        """
        self._reason = self._reason or error
        self._sent_at = self._sent_at or sent_at
        while self._left and isinstance(error, PASSES_ON) and (total_s := self._total_left_s()) > 0:
            failed = self.who.spec.id
            self.who = self._instead(_within(self._left.pop(0), self._wait_left_s(), total_s))
            try:
                prepared = self._prepare(replace(self._request, who=self.who))
            except InvalidRequest:  # what was asked for cannot be had of this one
                continue
            logger.info("%s answers instead of %s: %s", self.who.spec.id, failed, error.message)
            return prepared
        raise self._told(error)

    def _instead(self, spec: ModelSpec) -> Who:
        why = None if self._reason is None else self._reason.type
        origin = replace(self.who.origin, fallback_from=self._first.id, fallback_reason=why)
        return replace(self.who, spec=spec, origin=origin)

    def _wait_left_s(self) -> float:
        own_s = self._first.timeouts.wait_s
        return max(0.0, min(self._request.wait_s or own_s, own_s) - self.elapsed_s)

    def _total_left_s(self) -> float:
        spent_s = 0.0 if self._sent_at is None else time.perf_counter() - self._sent_at
        return self._first.timeouts.total_s - spent_s

    def _told(self, last: GatewayError) -> GatewayError:
        told = self._reason or last
        if told.message != last.message:
            also = f"Nor could {self.who.spec.id} answer instead: {last.message}"
            told.hint = f"{also} {told.hint}" if told.hint else also
        return told


def _within(spec: ModelSpec, wait_s: float, total_s: float) -> ModelSpec:
    """The same model with shorter clocks."""
    times = spec.timeouts
    shorter = {"wait_s": min(times.wait_s, wait_s), "total_s": min(times.total_s, total_s)}
    return spec.model_copy(update={"timeouts": times.model_copy(update=shorter)})
