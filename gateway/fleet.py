"""From the registry to things that run: one engine per model, one memory per device, one manager."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from gateway.children import SupervisorChild, spawn
from gateway.config import DeviceSpec, ModelSpec, Registry
from gateway.device import DeviceMemory
from gateway.errors import ModelUnavailable
from gateway.lifecycle import ExternalEngine, SupervisedEngine
from gateway.memory import Ledger
from gateway.metrics import Metrics
from gateway.model_manager import ModelManager
from gateway.readers import reader_for
from gateway.registry import device_of
from gateway.scheduler import DevicePolicy, ModelPolicy, Scheduler, SwitchPolicy
from gateway.tickets import Entry
from gateway.upstream.base import EngineClient
from gateway.upstream.supervisor import SupervisorClient

logger = logging.getLogger("gateway.fleet")

ELSEWHERE = ""
"""The device of models whose memory nobody counts. No device of a registry can be called so."""
UNCOUNTED_BYTES = 2**62
RESPAWN_S = 1.0
ENGINE_PORTS = range(20_000, 30_000)

MAX_LOG_BYTES = 10 * 2**20

Controls = Mapping[str, ExternalEngine | SupervisedEngine]


@dataclass(frozen=True, slots=True)
class Outward:
    """What everything uses that speaks to others: one client, and the token of foreign supervisors."""

    http: httpx.AsyncClient
    supervisor_token: str | None = None


class Fleet:
    """Everything that the manager is made of. Ends the supervisors that it started."""

    def __init__(self, registry: Registry, controls: Controls) -> None:
        self._registry = registry
        self._controls = controls
        self._devices = {spec.id: self._device(spec) for spec in registry.devices}

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        registry: Registry,
        engines: Mapping[str, EngineClient],
        outward: Outward,
        logs: Path,
    ) -> AsyncIterator[Fleet]:
        """Starts a supervisor around each `command`. Raises ModelUnavailable when one does not come up."""
        yard = _Yard(engines, outward, logs)
        try:
            controls = {spec.id: await yard.control(spec) for spec in registry.models}
            yield cls(registry, controls)
        finally:
            await yard.close()

    @property
    def devices(self) -> Mapping[str, DeviceMemory]:
        return self._devices

    def manager(self, metrics: Metrics) -> ModelManager:
        entries = [self._entry(spec) for spec in self._registry.models]
        return ModelManager(entries, self._scheduler(), metrics)

    def _device(self, spec: DeviceSpec) -> DeviceMemory:
        declared = {
            model.id: int(model.memory or 0)
            for model in self._registry.models
            if device_of(model, self._registry) == spec.id
        }

        async def sizes() -> Mapping[str, int]:
            controls = {name: self._controls[name] for name in declared}
            supervised = {n: c for n, c in controls.items() if isinstance(c, SupervisedEngine)}
            read = await asyncio.gather(*(control.memory_bytes() for control in supervised.values()))
            return {name: size for name, size in zip(supervised, read, strict=True) if size}

        ledger = Ledger(spec.id, int(spec.memory), declared)
        return DeviceMemory(ledger, declared.keys(), reader_for(spec, sizes), spec.release_timeout_s)

    def _entry(self, spec: ModelSpec) -> Entry:
        device = device_of(spec, self._registry)
        return Entry(
            id=spec.id,
            control=self._controls[spec.id],
            device=self._devices[device] if device else None,
            silence_s=min(spec.timeouts.between_tokens_s, spec.timeouts.first_token_s) / 2,
            probe_s=spec.probes.timeout_s,
            preload=spec.preload or spec.pinned,
        )

    def _scheduler(self) -> Scheduler:
        rules = self._registry.switching
        policy = SwitchPolicy(
            max_wait_s=rules.max_wait_s,
            min_residency_s=rules.min_residency_s,
            hold_idle_gaps=rules.hold_idle_gaps,
            default_model=self._registry.default(),
            return_to_default_after_s=rules.return_to_default_after_s,
            keep_abandoned_loads=rules.keep_abandoned_loads,
            backoff_initial_s=rules.backoff_initial_s,
            backoff_max_s=rules.backoff_max_s,
        )
        devices = [DevicePolicy(spec.id, int(spec.memory)) for spec in self._registry.devices]
        devices.append(DevicePolicy(ELSEWHERE, UNCOUNTED_BYTES))
        models = [self._policy(spec) for spec in self._registry.models]
        return Scheduler(models, devices, policy, time.perf_counter())

    def _policy(self, spec: ModelSpec) -> ModelPolicy:
        return ModelPolicy(
            id=spec.id,
            device=device_of(spec, self._registry) or ELSEWHERE,
            footprint_bytes=int(spec.memory or 0),
            max_concurrent=spec.limits.max_concurrent,
            max_queue=spec.limits.max_queue,
            priority=spec.priority,
            pinned=spec.pinned,
            preload=spec.preload,
            idle_timeout_s=spec.idle_timeout_s,
            managed=spec.managed,
        )


class _Yard:
    """Where engines are got from: addresses of others, or children of ours that are kept alive."""

    def __init__(
        self,
        engines: Mapping[str, EngineClient],
        outward: Outward,
        logs: Path,
    ) -> None:
        self._engines = engines
        self._outward = outward
        self._logs = logs
        self._children: dict[str, SupervisorChild] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def control(self, spec: ModelSpec) -> ExternalEngine | SupervisedEngine:
        engine = self._engines[spec.engine]
        if spec.command is not None:
            return await self._own(spec, engine)
        url = (spec.url or "").rstrip("/")
        if spec.supervisor is None:
            return ExternalEngine(spec, url, engine)
        supervisor = SupervisorClient(self._outward.http, spec.supervisor, self._outward.supervisor_token)
        return SupervisedEngine(spec, url, engine, supervisor)

    async def _own(self, spec: ModelSpec, engine: EngineClient) -> SupervisedEngine:
        port = _free_port()
        places = {"{port}": str(port), "{python}": sys.executable}
        command = [_fill(part, places) for part in spec.command or ()]
        client = await self._spawn(spec, command)
        control = SupervisedEngine(spec, f"http://127.0.0.1:{port}", engine, client)
        self._tasks.append(asyncio.create_task(self._keep(spec, command, control)))
        return control

    async def _spawn(self, spec: ModelSpec, command: list[str]) -> SupervisorClient:
        log = _log_file(self._logs, spec.id)
        child = await spawn(command, name=spec.id, grace_s=spec.timeouts.stop_grace_s, log_path=log)
        self._children[spec.id] = child
        return SupervisorClient(self._outward.http, child.url, child.token)

    async def _keep(self, spec: ModelSpec, command: list[str], control: SupervisedEngine) -> None:
        """A supervisor that dies takes its engine with it; a new one takes its place."""
        while True:
            code = await self._children[spec.id].wait()
            logger.warning("the supervisor of %s ended with exit code %s; starting another", spec.id, code)
            try:
                control.supervised_by(await self._spawn(spec, command))
            except (ModelUnavailable, OSError) as error:
                # Supervisors die when memory runs out, and that is when a new process cannot be had either.
                logger.warning("%s: no new supervisor yet: %s", spec.id, error)
                await asyncio.sleep(RESPAWN_S)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(child.stop() for child in self._children.values()))


def _fill(part: str, places: Mapping[str, str]) -> str:
    for name, value in places.items():
        part = part.replace(name, value)
    return part


def _free_port() -> int:
    """A port for an engine's whole life. Below those that the system gives to outgoing connections: one of
    these could take it while the engine is stopped."""
    for port in random.sample(ENGINE_PORTS, len(ENGINE_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ModelUnavailable(
        f"No port from {ENGINE_PORTS.start} to {ENGINE_PORTS.stop - 1} is free for an engine."
    )


def _log_file(folder: Path, model: str) -> Path:
    """Where an engine's output goes. A large one of earlier days is set aside, in place of the last."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{model}.log"
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return path
