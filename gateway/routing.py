"""Whom a request means: the model behind a name, the arm of a split, and who answers instead."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from gateway.aliases import NO_ARM, Blocks, arm_by_lot, arm_of_key
from gateway.config import AliasSpec, ModelSpec, Registry
from gateway.errors import InvalidRequest, ModelNotFound, ModelUnavailable
from gateway.records import record
from gateway.registry import device_of
from gateway.switching.vocabulary import ModelView, State

LOADS_PER_TURN = 3
"""Turns of arms that do not fit together last this many loads: at most a quarter of the time is loading."""


@record
class Asked:
    """Whom a client asks for: a model or an alias; None for the default.

    ``session`` and ``user`` are its keys for sticky splits. They must not get into logs, metrics or answers.
    ``fallback`` is None where the client says nothing, and the alias decides.
    """

    name: str | None
    session: str | None = field(default=None, repr=False)
    user: str | None = field(default=None, repr=False)
    fallback: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """How it came about that a model answers: by a split, or instead of another one."""

    alias: str | None = None
    """Only where it is split."""
    arm: str = NO_ARM
    """Who was drawn, also where another one answers instead."""
    fallback_from: str | None = None
    fallback_reason: str | None = None
    """The type of the error for which the model that was asked did not answer."""


DIRECT = Origin()
"""It was asked for by name."""


@record
class Who:
    """Who is to answer a request, and who may instead, in this order."""

    spec: ModelSpec
    origin: Origin = DIRECT
    fallback: tuple[ModelSpec, ...] = ()


class Residency(Protocol):
    """What is known of a model and its memory."""

    def view(self, model: str) -> ModelView: ...


class Routing:
    """Finds out who answers. Of state it has only whose turn it is in each split."""

    def __init__(self, registry: Registry, residency: Residency) -> None:
        self._registry = registry
        self._residency = residency
        self._specs = {spec.id: spec for spec in registry.models}
        self._names = registry.names()
        self._default = registry.default_model or registry.models[0].id
        self._blocks = {
            name: Blocks(alias.split, alias.block_requests)
            for name, alias in registry.splits().items()
            if alias.split
        }
        self._dice = random.Random()  # noqa: S311  nothing is kept secret by it

    def draw(self, asked: Asked) -> Who:
        """Who answers this request. Raises ModelNotFound, and InvalidRequest for an impossible fallback."""
        return self._who(asked, counts=True)

    def peek(self, asked: Asked) -> Who:
        """Who would answer it, or be likely to. Takes no turn."""
        return self._who(asked, counts=False)

    @property
    def names(self) -> Collection[str]:
        """Every name that can be asked for."""
        return self._names

    def direct(self, name: str | None) -> ModelSpec | None:
        """The model behind a name, where there is nothing to draw, and nobody to answer instead."""
        name = name or self._default
        alias = self._registry.aliases.get(name)
        if alias is not None and (alias.split is not None or alias.fallback):
            return None
        wanted = self._names.get(name)
        return None if wanted is None else self._specs[wanted]

    def expect(self, spec: ModelSpec) -> None:
        """Raises ModelUnavailable for a model whose last start failed, though it will be tried again."""
        view = self._residency.view(spec.id)
        if view.state is State.FAILED:
            raise ModelUnavailable(f"{spec.id} cannot answer now: {view.reason}")

    def _who(self, asked: Asked, *, counts: bool) -> Who:
        name = asked.name or self._default
        alias = self._registry.aliases.get(name)
        fallback = asked.fallback if asked.fallback is not None else alias.fallback if alias else ()
        if alias is not None and alias.split is not None:
            arm = self._arm(name, alias, alias.split, asked, counts=counts)
            return Who(self._specs[arm], Origin(name, arm), self._instead(fallback, arm))
        spec = self._spec(name)
        return Who(spec, DIRECT, self._instead(fallback, spec.id))

    def _spec(self, name: str) -> ModelSpec:
        wanted = self._names.get(name)
        if wanted is not None:
            return self._specs[wanted]
        known = ", ".join(self._names)
        raise ModelNotFound(
            f"There is no model `{name}`.", field="model_id", hint=f"Ask for one of: {known}."
        )

    def _instead(self, names: tuple[str, ...], but: str) -> tuple[ModelSpec, ...]:
        """The models that may answer instead of ``but``, each once."""
        specs = {spec.id: spec for spec in map(self._possible, names)}
        specs.pop(but, None)
        return tuple(specs.values())

    def _possible(self, name: str) -> ModelSpec:
        if name in self._blocks:
            raise InvalidRequest(
                f"The fallback `{name}` is split over several models.",
                field="fallback",
                hint=f"Name one model: {', '.join(self._specs)}.",
            )
        if name not in self._names:
            raise ModelNotFound(
                f"There is no model `{name}` to fall back to.",
                field="fallback",
                hint=f"Name one of: {', '.join(self._specs)}.",
            )
        return self._spec(name)

    # ------------------------------------------------------------ which arm

    def _arm(
        self, name: str, alias: AliasSpec, weights: dict[str, float], asked: Asked, *, counts: bool
    ) -> str:
        key = _key(alias, asked)
        if key is not None:
            return arm_of_key(name, key, weights)
        blocks = self._blocks[name]
        apart = self.do_not_fit_together(alias)
        if not counts:
            return blocks.arm if apart and blocks.arm is not None else alias.models[0]
        if not apart:
            return arm_by_lot(weights, self._dice.random())
        return blocks.next(time.monotonic(), self._turn_s(alias), self._dice.random())

    def do_not_fit_together(self, alias: AliasSpec) -> bool:
        """Whether to change from one model of a split to another costs a load."""
        needed: Counter[str] = Counter()
        for model in alias.models:
            device = device_of(self._specs[model], self._registry)
            if device is not None:
                needed[device] += self._residency.view(model).footprint_bytes
        return any(needed[device.id] > int(device.memory or 0) for device in self._registry.devices)

    def _turn_s(self, alias: AliasSpec) -> float:
        if alias.block_s is not None:
            return alias.block_s
        return LOADS_PER_TURN * max(self._loads_s(alias), default=0.0)

    def _loads_s(self, alias: AliasSpec) -> Iterator[float]:
        for model in alias.models:
            last_s = self._residency.view(model).last_start_s
            if last_s is not None:
                yield last_s


def _key(alias: AliasSpec, asked: Asked) -> str | None:
    """What a request stays with one model by. An empty key is none."""
    if alias.sticky == "none":
        return None
    if alias.sticky == "user":
        return asked.user or asked.session or None
    return asked.session or asked.user or None
