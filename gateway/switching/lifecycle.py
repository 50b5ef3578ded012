"""How one model goes from state to state: what each event of its engine means, and what each step asks for.

It follows orders and facts; whose turn it is, is decided in ``gateway.scheduler``.
"""

from __future__ import annotations

from gateway.switching.books import Device, Model, Request
from gateway.switching.outlook import retry_after_s
from gateway.switching.vocabulary import (
    Action,
    CancelStart,
    Changed,
    Died,
    FootprintLearnt,
    Found,
    Grant,
    LoadAsked,
    ModelEvent,
    RefusalCode,
    Refuse,
    ReplicasChanged,
    Start,
    Started,
    StartFailed,
    State,
    Stop,
    StopFailed,
    Stopped,
    SwitchPolicy,
    UnloadAsked,
)


class Lifecycle:
    def __init__(self, policy: SwitchPolicy) -> None:
        self._policy = policy
        self.requests: dict[int, Request] = {}  # waiting or running
        self.actions: list[Action] = []

    # Requests

    def admit(self, request: Request, now: float) -> None:
        model = request.model
        model.dequeue(request)
        model.running[request.id] = request
        request.granted_at = now
        self.actions.append(Grant(request.id))

    def refuse(
        self,
        request: Request,
        code: RefusalCode,
        message: str,
        now: float,
        retry_after_s: float | None = None,
    ) -> None:
        model = request.model
        self.requests.pop(request.id, None)
        if model.dequeue(request) and model.idle:
            model.idle_since = now
        self.actions.append(Refuse(request.id, code, message, retry_after_s))

    def refuse_all(
        self, model: Model, code: RefusalCode, message: str, now: float, retry_after_s: float | None = None
    ) -> None:
        for request in tuple(model.waiting.values()):
            self.refuse(request, code, message, now, retry_after_s)

    # Steps that the scheduler orders

    def start(self, model: Model, now: float) -> None:
        model.claim = model.told_no_room = False
        model.start_began = now
        self.actions.append(Start(model.policy.id))
        self._change(model, State.STARTING, None, now)

    def cancel_start(self, model: Model, now: float, reason: str) -> None:
        self.actions.append(CancelStart(model.policy.id))
        self._change(model, State.STOPPING, reason, now)

    def drain(self, model: Model, now: float, reason: str, makes_room_for: Model | None = None) -> None:
        model.makes_room_for = makes_room_for
        self._change(model, State.DRAINING, reason, now)

    def take_back(self, model: Model, now: float) -> None:
        model.makes_room_for = None
        self._change(model, State.READY, "no longer asked to make room", now)

    def stop(self, model: Model, now: float, reason: str | None) -> None:
        """In order: nothing is in flight."""
        if model.state is State.DRAINING:
            model.history.drain.add(now - model.since)
        model.failures, model.retry_at, model.stop_began = 0, None, now
        self.actions.append(Stop(model.policy.id))
        self._change(model, State.STOPPING, reason, now)

    def stop_now(self, model: Model, now: float, reason: str | None) -> None:
        model.stop_again_at = None
        self.actions.append(Stop(model.policy.id, force=True))
        if model.state is not State.STOPPING:
            self._change(model, State.STOPPING, reason, now)

    def give_up(self, model: Model, message: str, now: float, retry_after_s: float | None = None) -> None:
        """There is no room for it, nor will there be: nobody is left waiting."""
        self.refuse_all(model, "does_not_fit", message, now, retry_after_s)
        if model.wanted_since is not None:
            model.wanted_since, model.told_no_room = None, False
            self._change(model, model.state, message, now)

    def go_without(self, model: Model, message: str, now: float, retry_after_s: float | None) -> None:
        """There is no room for it now. What is to be resident anyway stays wanted; that is said once.

        The figures of the message are kept up to date, but a neighbour that moves is not worth an event.
        """
        if not (model.wanted_since is not None and model.policy.comes_back):
            self.give_up(model, message, now, retry_after_s)
            return
        if model.soonest_due <= now:
            self.refuse_all(model, "does_not_fit", message, now, retry_after_s)
        model.claim, model.reason = False, message
        if not model.told_no_room:
            model.told_no_room = True
            self._change(model, model.state, message, now)

    # Events of its engine, and of its operator

    def apply(self, event: ModelEvent, model: Model, device: Device, now: float) -> None:
        match event:
            case Started(footprint_bytes=learnt):
                self._learn(model, device, learnt)
                self._started(model, now)
            case FootprintLearnt() | ReplicasChanged():
                self._sized(event, model, device)
            case StartFailed(reason=reason):
                self._start_failed(model, now, reason)
            case Stopped():
                self._stopped(model, now)
            case StopFailed(reason=reason):
                self._stop_failed(model, now, reason)
            case Died(reason=reason):
                self._died(model, now, reason)
            case LoadAsked():
                self._load_asked(model, now)
            case UnloadAsked(force=force):
                self._unload_asked(model, device, now, force)
            case Found():
                self._found(event, model, now)

    def _found(self, event: Found, model: Model, now: float) -> None:
        """Nothing is measured here: when it began is not known."""
        if event.state == "ready":
            self._started(model, now)
            return
        if not model.policy.managed or model.state not in (State.STOPPED, State.FAILED):
            return
        if event.state == "starting":
            model.wanted_since = now  # a load under way is finished, whoever asked for it
            self.start(model, now)
            model.start_began = None
        else:
            self.actions.append(Stop(model.policy.id))
            self._change(model, State.STOPPING, "was being stopped already", now)

    def _sized(self, event: FootprintLearnt | ReplicasChanged, model: Model, device: Device) -> None:
        if isinstance(event, ReplicasChanged):
            model.replicas = max(1, event.count)
        else:
            self._learn(model, device, event.bytes)

    def _learn(self, model: Model, device: Device, learnt: int | None) -> None:
        """What has run on a device fits it, whatever the reading says."""
        if learnt is not None and learnt > 0 and model.policy.managed:
            model.footprint_bytes = min(learnt, device.policy.capacity_bytes)

    def _started(self, model: Model, now: float) -> None:
        if model.state is State.STOPPING:  # it was quicker than its cancellation
            self.actions.append(Stop(model.policy.id))
            return
        if model.state in (State.READY, State.DRAINING):
            return
        if model.state is State.STARTING and model.start_began is not None:
            model.history.load.add(now - model.start_began)
        model.wanted_since, model.retry_at, model.claim = None, None, False
        model.ready_since = model.idle_since = now
        self._change(model, State.READY, None, now)

    def _start_failed(self, model: Model, now: float, reason: str) -> None:
        if model.state is State.STOPPING:  # its cancellation was quicker
            self._stopped(model, now)
        elif model.state is State.STARTING:
            self._fail(model, now, reason)
            self._change(model, State.FAILED, reason, now)

    def _fail(self, model: Model, now: float, reason: str) -> None:
        model.failures += 1
        model.wanted_since = now if model.policy.pinned else None
        delay_s = self._backoff_s(model.failures)
        model.retry_at = now + delay_s
        message = f"{model.policy.id} could not be started: {reason}"
        self.refuse_all(model, "start_failed", message, now, delay_s)

    def _backoff_s(self, failures: int) -> float:
        if failures == 0:
            return 0.0
        doublings = min(failures - 1, 30)
        return min(self._policy.backoff_max_s, self._policy.backoff_initial_s * 2.0**doublings)

    def _stopped(self, model: Model, now: float) -> None:
        if model.state in (State.STOPPED, State.FAILED):
            return
        if model.stop_began is not None:
            model.history.stop.add(now - model.stop_began)
        model.stop_began = model.stop_again_at = model.makes_room_for = None
        model.stop_failures = 0
        backing_off = model.retry_at is not None and model.retry_at > now
        self._change(model, State.FAILED if backing_off else State.STOPPED, model.reason, now)

    def _stop_failed(self, model: Model, now: float, reason: str) -> None:
        if model.state is not State.STOPPING:
            return
        model.stop_failures += 1
        model.stop_began = None
        model.stop_again_at = now + self._backoff_s(model.stop_failures)
        self._change(model, State.STOPPING, f"could not be stopped: {reason}", now)

    def _died(self, model: Model, now: float, reason: str) -> None:
        if model.state in (State.STOPPED, State.FAILED, State.STOPPING):
            return
        if not model.policy.managed:
            self.refuse_all(model, "unavailable", f"{model.policy.id} does not answer: {reason}", now)
            self._change(model, State.FAILED, reason, now)
            return
        self._note_death(model, now, reason)
        model.makes_room_for = None
        self.stop_now(model, now, reason)

    def _note_death(self, model: Model, now: float, reason: str) -> None:
        """The first death of an engine that was ready costs no back-off; those who wait go on waiting."""
        if model.state is State.STARTING:
            self._fail(model, now, reason)
            return
        if now - model.ready_since >= self._policy.backoff_max_s:
            model.failures = 0
        delay_s = self._backoff_s(model.failures)
        model.failures += 1
        model.retry_at = now + delay_s
        model.wanted_since = now if model.policy.pinned else None
        for request in tuple(model.waiting.values()):
            if not outlasts_backoff(request, now):
                message = f"{model.policy.id} ended while the request waited: {reason}"
                self.refuse(request, "start_failed", message, now, delay_s)

    def _load_asked(self, model: Model, now: float) -> None:
        if model.state is State.READY or not model.policy.managed:
            model.idle_since = now
            return
        model.retry_at, model.told_no_room = None, False
        if model.wanted_since is None:
            model.wanted_since = now

    def _unload_asked(self, model: Model, device: Device, now: float, force: bool) -> None:
        if not model.policy.managed:
            return
        model.wanted_since, model.told_no_room = None, False
        waiting, told = tuple(model.waiting.values()), len(self.actions)
        self._unload(model, now, force)
        # How long it takes is known by its state from now on; but who waits is told before it goes.
        back_in_s = retry_after_s(model, device, self._policy, now)
        self.actions, unloading = self.actions[:told], self.actions[told:]
        for request in waiting:
            self.refuse(request, "unloaded", f"{model.policy.id} is being unloaded.", now, back_in_s)
        self.actions += unloading

    def _unload(self, model: Model, now: float, force: bool) -> None:
        if model.state is State.STARTING:
            self.cancel_start(model, now, "unload asked")
        elif model.state is State.FAILED:
            model.failures, model.retry_at = 0, None
            self._change(model, State.STOPPED, "unload asked", now)
        elif force and model.state is not State.STOPPED:
            self.stop_now(model, now, "unload asked")
        elif model.state in (State.READY, State.DRAINING):
            self.drain(model, now, "unload asked")

    def _change(self, model: Model, state: State, reason: str | None, now: float) -> None:
        if state is not model.state:
            model.since = now
        model.state, model.reason = state, reason
        asker = model.makes_room_for.policy.id if model.makes_room_for is not None else None
        self.actions.append(Changed(model.policy.id, state, reason, asker))


def outlasts_backoff(request: Request, now: float) -> bool:
    """Whether its own deadline lets it wait for the next try; without a deadline it waits."""
    retry_at = request.model.retry_at
    return retry_at is None or retry_at <= now or request.deadline is None or request.deadline > retry_at
