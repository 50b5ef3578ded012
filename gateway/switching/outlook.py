"""When will it be my turn? Estimates from what was measured; None where one is missing or overdue."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gateway.switching.books import Device, Model, Request
from gateway.switching.history import GUESSED_STOP_S
from gateway.switching.vocabulary import Arrived, Outlook, Phase, State, SwitchPolicy


def switch_s(model: Model, device: Device) -> float | None:
    """From the first moment of a hand-over to the model's first grant: drain, stop, load."""
    load = model.history.load.estimate()
    others = [m for m in device.models if m is not model and m.policy.managed and m.state is State.READY]
    leave = max((_leave_s(m) or 0.0 for m in others), default=0.0)
    return None if load is None else leave + load


def due_of(event: Arrived, model: Model, device: Device, policy: SwitchPolicy, now: float) -> float:
    """``max_wait_s`` from now; earlier if only so it can be answered before its own deadline."""
    due = now + policy.max_wait_s
    if event.deadline is None or model.state is State.READY:
        return due
    until_ready_s = switch_s(model, device)
    if until_ready_s is None:
        return due
    latest = event.deadline - until_ready_s - (model.history.service.value or 0.0)
    return min(due, latest) if latest >= now else due


def held_until(resident: Model, policy: SwitchPolicy) -> float:
    """Until when an idle resident is worth keeping although somebody waits for its memory.

    It is while its next request is likely to come soon: some of its usual gaps, but never longer than
    reloading it would take. A model that is asked more seldom than that is not held at all.
    """
    history = resident.history
    gap_s, last, load_s = history.gap.value, history.last_arrival, history.load.estimate()
    if gap_s is None or last is None or load_s is None or gap_s > load_s:
        return resident.idle_since
    return min(last + policy.hold_idle_gaps * gap_s, resident.idle_since + load_s)


def outlook(request: Request, device: Device, policy: SwitchPolicy, now: float) -> Outlook:
    if request.granted_at is not None:
        return Outlook("ready", 0, 0.0)
    model = request.model
    position = 1 + model.places.ahead_of(request.priority, request.number)
    ready_s = seconds_until_ready(model, device, policy, now)
    queue_s = _queue_s(model, position)
    eta_s = None if ready_s is None or queue_s is None else ready_s + queue_s
    return Outlook(_phase(model, device), position, eta_s)


def retry_after_s(model: Model, device: Device, policy: SwitchPolicy, now: float) -> float | None:
    """Seconds after which somebody who comes now would have been served, or may be tried again."""
    if model.retry_at is not None and model.retry_at > now:
        return model.retry_at - now
    ready_s = seconds_until_ready(model, device, policy, now)
    queue_s = _queue_s(model, len(model.waiting) + 1)
    if ready_s is None or queue_s is None:
        return _roughly_s(model, device)
    return ready_s + queue_s


def stuck_for_s(device: Device, now: float) -> float | None:
    """Until all that could not be stopped has been tried once more; None where nothing is stuck."""
    again = [m.stop_again_at - now for m in device.models if m.stop_again_at is not None]
    return max(again, default=None)


def _roughly_s(model: Model, device: Device) -> float | None:
    """For who is to come back, before everything that this takes was measured once: from the sizes."""
    if not model.policy.managed or model.state is State.READY:
        return None
    has_room = bool(model.holds_bytes) or model.footprint_bytes <= device.free_bytes()
    stop_s = 0.0 if has_room else GUESSED_STOP_S
    return stop_s + model.history.reload_s(model.footprint_bytes)


def seconds_until_ready(model: Model, device: Device, policy: SwitchPolicy, now: float) -> float | None:
    if model.state is State.READY:
        return 0.0
    load_s = model.history.load.estimate()
    if load_s is None or not model.policy.managed:
        return None
    if model.state is State.STARTING:
        left_s = load_s - (now - model.since)
        return left_s if left_s > 0 else None  # overdue: how long it still takes, nobody knows
    room_s = _seconds_until_room(model, device, policy, now)
    backoff_s = max(0.0, model.retry_at - now) if model.retry_at is not None else 0.0
    return None if room_s is None else max(room_s, backoff_s) + load_s


def _seconds_until_room(model: Model, device: Device, policy: SwitchPolicy, now: float) -> float | None:
    free = device.free_bytes()
    if model.footprint_bytes <= free:
        return 0.0
    leaving = [m for m in device.models if m.leaving]
    if model.footprint_bytes <= free + sum(m.holds_bytes for m in leaving):
        return _latest(_remaining_s(m, now) for m in leaving)
    residents = [m for m in device.models if m.state is State.READY and m.holds_bytes and not m.policy.pinned]
    begins_in_s = _turn_begins_in_s(model, residents, policy, now)
    leaves_s = _latest(_leave_s(m) for m in residents)
    return None if leaves_s is None else begins_in_s + leaves_s


def _turn_begins_in_s(model: Model, residents: list[Model], policy: SwitchPolicy, now: float) -> float:
    busy = [m for m in residents if not m.idle]
    if not busy:
        return 0.0
    due = model.due_at(policy.max_wait_s) if model.demanded else now + policy.max_wait_s
    residency_over = max(m.ready_since + policy.min_residency_s for m in busy)
    return max(0.0, due - now, residency_over - now)


def _leave_s(model: Model) -> float | None:
    """How long a resident takes to drain and stop."""
    stop_s, drain_s = model.history.stop.estimate(), _drain_s(model)
    return None if stop_s is None or drain_s is None else drain_s + stop_s


def _drain_s(model: Model) -> float | None:
    if not model.running:
        return 0.0
    measured = model.history.drain.estimate()
    return model.history.service.value if measured is None else measured


def _remaining_s(model: Model, now: float) -> float | None:
    stop_s, elapsed = model.history.stop.estimate(), now - model.since
    if stop_s is None:
        return None
    if model.state is State.STOPPING:
        return max(0.0, stop_s - elapsed)
    drain_s = _drain_s(model)
    return None if drain_s is None else max(0.0, drain_s - elapsed) + stop_s


def _latest(durations: Iterable[float | None]) -> float | None:
    latest = 0.0
    for duration in durations:
        if duration is None:
            return None
        latest = max(latest, duration)
    return latest


def _queue_s(model: Model, position: int) -> float | None:
    """How long those ahead keep the slots of a model that is ready."""
    slots = model.slots
    beyond = position - max(0, slots - len(model.running))
    if beyond <= 0:
        return 0.0
    service_s = model.history.service.value
    return None if service_s is None else math.ceil(beyond / slots) * service_s


def _phase(model: Model, device: Device) -> Phase:
    if model.state is State.STARTING:
        return "loading"
    making_room = model.claim and any(m.leaving for m in device.models)
    return "draining" if making_room else "queued"
