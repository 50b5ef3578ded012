"""Who is resident, who waits, who hands over. Pure: (state, time, event) → actions.

Nothing here reads a clock, sleeps, or talks to anybody. Four rules make up the policy; each is one
function below, and ``docs/SWITCHING.md`` gives the reasons and what is guaranteed.

1. ``_grant``   A resident model serves at once, until it drains for somebody else.
2. ``_turn``    Among models that are not resident: whoever is due first, then priority, then age.
3. ``_may_go``  An idle resident may go; a busy one when the other is due and it had its residency.
4. ``_place``   Room is counted in bytes; those go who are missed least; nobody is killed.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.switching import outlook
from gateway.switching.admission import has_place, next_place_s, refused_because
from gateway.switching.books import Device, Model, Request, cheapest_victims, room_complaint, want_preloads
from gateway.switching.lending import Lending
from gateway.switching.lifecycle import Lifecycle
from gateway.switching.moments import next_wake, return_at
from gateway.switching.vocabulary import (
    Action,
    Arrived,
    CancelStart,
    Changed,
    DevicePolicy,
    Died,
    Event,
    Finished,
    FootprintLearnt,
    Found,
    Grant,
    Left,
    LoadAsked,
    ModelPolicy,
    ModelView,
    NeighbourUses,
    Outlook,
    Refuse,
    Start,
    Started,
    StartFailed,
    State,
    Stop,
    StopFailed,
    Stopped,
    SwitchPolicy,
    Tick,
    UnloadAsked,
    WakeAt,
)

__all__ = [
    "Action",
    "Arrived",
    "CancelStart",
    "Changed",
    "DevicePolicy",
    "Died",
    "Event",
    "Finished",
    "FootprintLearnt",
    "Found",
    "Grant",
    "Left",
    "LoadAsked",
    "ModelPolicy",
    "ModelView",
    "NeighbourUses",
    "Outlook",
    "Refuse",
    "Scheduler",
    "Start",
    "StartFailed",
    "Started",
    "State",
    "Stop",
    "StopFailed",
    "Stopped",
    "SwitchPolicy",
    "Tick",
    "UnloadAsked",
    "WakeAt",
]


class Scheduler:
    """The one owner of every model's state. ``handle`` is the only way in.

    It never raises on an event; requests that are unknown or already ended are ignored. Times are
    seconds on the caller's clock, which must not run backwards. Preloads and the timer begin with the
    first Tick: send it at the start, after a Found for every engine that is there.
    """

    def __init__(
        self,
        models: Iterable[ModelPolicy],
        devices: Iterable[DevicePolicy],
        policy: SwitchPolicy,
        now: float,
    ) -> None:
        self._policy = policy
        self._life = Lifecycle(policy)
        self._requests = self._life.requests
        self._devices = {device.id: Device(device) for device in devices}
        self._models: dict[str, Model] = {}
        self._armed: float | None = None
        self._begun = False
        self.lending = Lending(self._models, self._devices, self._requests)
        for model in models:
            self._add(model, now)
        if policy.default_model is not None and policy.default_model not in self._models:
            raise ValueError(f"default_model {policy.default_model!r} is none of {sorted(self._models)}")

    def _device(self, model: Model) -> Device:
        return self._devices[model.policy.device]

    def _add(self, policy: ModelPolicy, now: float) -> None:
        if not policy.managed:
            self._devices.setdefault(policy.device, Device(DevicePolicy(policy.device, 0)))
        state = State.STOPPED if policy.managed else State.READY
        model = Model(policy, policy.footprint_bytes, now, state)
        self._models[policy.id] = model
        self._devices[policy.device].models.append(model)

    def handle(self, event: Event, now: float) -> list[Action]:
        self._life.actions = []
        for device in self._apply(event, now):
            self._settle(device, now)
        if self._begun:
            self._arm(always=isinstance(event, Tick))
        return self._life.actions

    # The two events that nearly all requests consist of, where they concern nobody else.

    def admit_at_once(self, request_id: int, model: str, mark: int, now: float) -> bool:
        """Let a request in that would be granted as it arrives. False, and nothing has changed, otherwise."""
        record = self._models[model]
        if not record.can_admit():
            return False
        record.let_in(request_id, mark, now, self._requests)
        self._device(record).note_use(record)
        return True

    def ended_quietly(self, request_id: int, now: float, at: float | None = None) -> bool:
        """Note the end of a request after which nothing is to be decided. False, and nothing has changed,
        otherwise. ``at``: when a lent place was used the last time."""
        request = self._requests.get(request_id)
        if request is None:
            return False
        device, returns = self._device(request.model), self._policy.return_to_default_after_s is not None
        if not request.model.ends_quietly(device, returns=returns):
            return False
        del self._requests[request_id]
        request.model.let_go(request, now, at)
        return True

    def outlook(self, request_id: int, now: float) -> Outlook:
        """Raises KeyError for a request that is neither waiting nor running."""
        request = self._requests[request_id]
        return outlook.outlook(request, self._device(request.model), self._policy, now)

    def retry_after_s(self, model: str, now: float) -> float | None:
        record = self._models[model]
        return outlook.retry_after_s(record, self._device(record), self._policy, now)

    def view(self, model: str) -> ModelView:
        return self._models[model].view()

    # Events update the books; then every device that they touch is settled.

    def _apply(self, event: Event, now: float) -> Iterable[Device]:
        match event:
            case Arrived():
                return self._arrived(event, now)
            case Finished() | Left():
                return self._ended(event, now)
            case Tick():
                self._begin(now)
                return self._devices.values()
            case Found():
                self._found(event, now)
                return ()
            case NeighbourUses():
                device = self._devices.get(event.device)
                if device is not None:
                    device.neighbour_bytes = max(0, event.bytes)
                return (device,) if device is not None else ()
            case _:
                model = self._models.get(event.model)
                if model is None:
                    return ()
                self._life.apply(event, model, self._device(model), now)
                return (self._device(model),)

    def _begin(self, now: float) -> None:
        if self._begun:
            return
        self._begun = True
        for device in self._devices.values():
            want_preloads(device, now)

    def _found(self, event: Found, now: float) -> None:
        model = self._models.get(event.model)
        if model is None:
            return
        device = self._device(model)
        self._life.apply(event, model, device, now)
        if event.state != "stopping" and model.policy.id != self._policy.default_model:
            device.away_from_default = True
        device.wake_at = now  # nothing is decided here, but a Tick may find something to do

    def _arrived(self, event: Arrived, now: float) -> Iterable[Device]:
        model = self._models.get(event.model)
        if model is None:
            message = f"There is no model {event.model!r}."
            self._life.actions.append(Refuse(event.request_id, "unknown_model", message))
            return ()
        if event.request_id in self._requests:
            return ()
        model.history.arrived(now)
        due = outlook.due_of(event, model, self._device(model), self._policy, now)
        request = Request(event.request_id, model, now, due, event.deadline, event.priority)
        if model.can_admit():
            model.promises.drop(event.mark, now)
            self._requests[request.id] = request
            self._life.admit(request, now)
            self._device(model).note_use(model)
            return ()  # nothing else can have changed
        refusal = refused_because(request, now)
        if refusal is not None:
            self._life.refuse(request, *refusal, now, self.retry_after_s(event.model, now))
            return ()
        if not has_place(model, event.mark, now):
            message = f"{len(model.waiting)} requests already wait for {event.model}."
            retry_after_s = next_place_s(model, event.mark, now) or self.retry_after_s(event.model, now)
            self._life.refuse(request, "queue_full", message, now, retry_after_s)
            return ()
        self._requests[request.id] = request
        model.enqueue(request)
        return (self._device(model),)

    def _ended(self, event: Finished | Left, now: float) -> Iterable[Device]:
        request = self._requests.pop(event.request_id, None)
        if request is None:
            return ()
        model = request.model
        model.dequeue(request)
        model.running.pop(request.id, None)
        if isinstance(event, Finished) and request.granted_at is not None:
            model.history.service.add(now - request.granted_at)
            model.history.occupancy.add(now - request.granted_at)
        if model.idle:
            model.fell_idle(now, event.at if isinstance(event, Finished) else None)
        return (self._device(model),)

    # Decisions

    def _settle(self, device: Device, now: float) -> None:
        """Bring one device to rest: afterwards, only an event or ``device.wake_at`` can change anything."""
        before = -1
        while len(self._life.actions) != before:  # a start or a refusal may let others go on
            before = len(self._life.actions)
            self._decide(device, now)
        device.wake_at = next_wake(device, self._default, self._policy, now)

    def _decide(self, device: Device, now: float) -> None:
        self._expire(device, now)
        self._drop_what_nobody_asks_for(device, now)
        for model in device.models:
            self._grant(model, now)
        self._retire(device, now)
        self._return_to_default(device, now)
        self._place(device, now)
        for model in device.models:
            if model.state is State.DRAINING and not model.running:
                self._life.stop(model, now, model.reason)

    def _grant(self, model: Model, now: float) -> None:
        """Rule 1. By priority, then age; whoever is due comes before all priorities."""
        while model.waiting and model.can_admit():
            oldest = next(iter(model.waiting.values()))
            first = max(model.waiting.values(), key=lambda r: r.priority)  # the oldest of equals
            self._life.admit(oldest if oldest.arrived + self._policy.max_wait_s <= now else first, now)

    def _turn(self, model: Model, now: float) -> tuple[bool, bool, float, float]:
        """Rule 2, as a sort key. A hand-over that has begun is not overtaken."""
        due = model.due_at(self._policy.max_wait_s)
        if due <= now:
            return (not model.claim, False, due, 0.0)
        return (not model.claim, True, -model.policy.priority, model.asked_at())

    def _may_go(self, resident: Model, newcomer: Model, now: float) -> bool:
        """Rule 3."""
        if resident.state is not State.READY or not resident.holds_bytes or resident.policy.pinned:
            return False
        if resident.idle and now >= outlook.held_until(resident, self._policy):
            return True
        due = newcomer.due_at(self._policy.max_wait_s) <= now
        entitled = due or newcomer.policy.priority > resident.policy.priority
        return entitled and now >= resident.ready_since + self._policy.min_residency_s

    def _place(self, device: Device, now: float) -> None:
        """Rule 4. In turn, each newcomer starts, waits for memory on its way, or has somebody make room.

        A younger demand never takes what an older one needs: ``ahead`` are the bytes of those before it.
        """
        ahead = promised = 0
        for model in sorted(self._newcomers(device, now), key=lambda m: self._turn(m, now)):
            size = model.footprint_bytes
            if model.holds_memory or size + ahead > device.attainable_bytes(but=model):
                ahead += size
                continue
            coming = device.free_bytes() + device.leaving_bytes() - promised
            if size <= min(coming, device.free_bytes()):
                self._start(device, model, now)
                continue
            if size > coming and not self._make_room(device, model, size - coming, now):
                ahead += size
                continue
            ahead += size
            promised += size

    def _start(self, device: Device, model: Model, now: float) -> None:
        device.away_from_default = model.policy.id != self._policy.default_model
        self._life.start(model, now)

    def _newcomers(self, device: Device, now: float) -> list[Model]:
        """Who asks for room and can have some; those who never can are told so."""
        asking = []
        for model in device.models:
            if not model.asks_for_room(now):
                continue
            complaint = room_complaint(device, model, due=model.due_at(self._policy.max_wait_s) <= now)
            if complaint is not None:
                for_good = model.footprint_bytes > device.most_bytes(but=model)
                tell = self._life.give_up if for_good else self._life.go_without
                tell(model, complaint, now, None if for_good else outlook.stuck_for_s(device, now))
            elif model.footprint_bytes <= device.attainable_bytes(but=model):
                model.told_no_room = False
                asking.append(model)
        return asking

    def _make_room(self, device: Device, newcomer: Model, need_bytes: int, now: float) -> bool:
        may_go = [m for m in device.models if m is not newcomer and self._may_go(m, newcomer, now)]
        victims = cheapest_victims(may_go, need_bytes, now, self._policy.max_wait_s)
        for victim in victims or ():
            self._life.drain(victim, now, f"makes room for {newcomer.policy.id}", newcomer)
        newcomer.claim = newcomer.claim or victims is not None
        return victims is not None

    def _expire(self, device: Device, now: float) -> None:
        for model in device.models:
            if model.soonest_deadline > now:
                continue
            late = [r for r in model.waiting.values() if r.deadline is not None and r.deadline <= now]
            for request in late:
                retry_after_s = self.retry_after_s(model.policy.id, now)
                message = f"Its turn at {model.policy.id} did not come before the request's deadline."
                self._life.refuse(request, "deadline", message, now, retry_after_s)

    def _drop_what_nobody_asks_for(self, device: Device, now: float) -> None:
        for model in device.models:
            model.claim = model.claim and model.demanded
            if model.state is State.STARTING and not model.demanded and not self._policy.keep_abandoned_loads:
                self._life.cancel_start(model, now, "nobody waits for it any more")
        for model in device.models:
            asker = model.makes_room_for
            if model.state is State.DRAINING and asker is not None and not asker.claim:
                self._life.take_back(model, now)

    def _retire(self, device: Device, now: float) -> None:
        """Idle time-outs, and another try at what could not be stopped."""
        for model in device.models:
            timeout_at = model.idle_timeout_at()
            if timeout_at is not None and timeout_at <= now:
                self._life.stop(model, now, "idle")
            if model.stop_again_at is not None and model.stop_again_at <= now:
                self._life.stop_now(model, now, model.reason)

    def _return_to_default(self, device: Device, now: float) -> None:
        if self._policy.return_to_default_after_s is None:
            return  # nobody asks since when it is quiet
        device.note_quiet(now)
        default = self._default
        at = return_at(device, default, self._policy)
        if default is not None and at is not None and at <= now:
            device.away_from_default = False
            if default.state is not State.READY:
                default.wanted_since = now

    @property
    def _default(self) -> Model | None:
        name = self._policy.default_model
        return None if name is None else self._models[name]

    def _arm(self, *, always: bool) -> None:
        wakes = [device.wake_at for device in self._devices.values() if device.wake_at is not None]
        at = min(wakes, default=None)
        if at is not None and (always or at != self._armed):
            self._life.actions.append(WakeAt(at))
        self._armed = at
