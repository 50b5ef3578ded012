"""The moments at which time alone changes something on a device. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gateway.switching import outlook
from gateway.switching.books import Device, Model
from gateway.switching.vocabulary import State, SwitchPolicy


def next_wake(device: Device, default: Model | None, policy: SwitchPolicy, now: float) -> float | None:
    """The first of them after ``now``, if there is one. ``default`` is the model to return to."""
    moments = _moments(device, default, policy, now)
    return min((at for at in moments if now < at < math.inf), default=None)


def return_at(device: Device, default: Model | None, policy: SwitchPolicy) -> float | None:
    """When the default model is to come back, as nothing has happened for long enough."""
    after_s = policy.return_to_default_after_s
    if after_s is None or default is None or default not in device.models:
        return None
    if device.quiet_since is None or not device.away_from_default:
        return None
    return device.quiet_since + after_s


def _moments(device: Device, default: Model | None, policy: SwitchPolicy, now: float) -> Iterator[float]:
    newcomers = [model for model in device.models if model.asks_for_room(now)]
    for newcomer in newcomers:
        yield newcomer.due_at(policy.max_wait_s)
        yield newcomer.soonest_due  # the same, unless a wish that goes without room was due before
    for model in device.models:
        yield model.soonest_deadline
        candidates = (model.stop_again_at, model.idle_timeout_at(), model.demanded and model.retry_at)
        yield from (at for at in candidates if at)
        if newcomers and model.state is State.READY:
            yield outlook.held_until(model, policy)
            yield model.ready_since + policy.min_residency_s
    yield return_at(device, default, policy) or math.inf
