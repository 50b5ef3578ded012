"""Whether a request may wait for its model, and when one that may not is to come back."""

from __future__ import annotations

from gateway.switching.books import Model, Request
from gateway.switching.lifecycle import outlasts_backoff
from gateway.switching.vocabulary import RefusalCode, State


def refused_because(request: Request, now: float) -> tuple[RefusalCode, str] | None:
    """Why waiting would be of no use, or None."""
    model, name = request.model, request.model.policy.id
    if not model.policy.managed and model.state is not State.READY:
        return "unavailable", f"{name} does not answer: {model.reason}"
    if not outlasts_backoff(request, now):
        return "start_failed", f"{name} could not be started: {model.reason}"
    return None


def has_place(model: Model, mark: int | None, now: float) -> bool:
    """Whether the queue takes it. Some places are kept for those who were told to come back now."""
    most = model.policy.max_queue
    if len(model.waiting) + model.promises.kept(now, most) < most:
        model.promises.drop(mark, now)
        return True
    return len(model.waiting) < most and model.promises.fetch(mark, now)


def next_place_s(model: Model, mark: int | None, now: float) -> float | None:
    """Seconds until a place of the full queue is this request's; None where no promise can be made.

    None can be made for a model that is not in, or before one request was measured, or without a queue.
    """
    occupied_s = model.history.occupancy.value
    if occupied_s is None or model.state is not State.READY or not model.policy.max_queue:
        return None
    # A place becomes free whenever one of those that run has ended.
    return model.promises.give(mark, now, occupied_s / model.slots)
