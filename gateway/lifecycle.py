"""How one model's engine is brought in, sent away and watched: by a supervisor, or by somebody else.

Both are ``EngineControl`` to the model manager. The embedded default and the containers of a compose
file take the same way: the only difference is who started the supervisor.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import aclosing

from gateway.config import ModelSpec, Probes
from gateway.errors import EngineError, EngineTimeout, GatewayError, ModelUnavailable
from gateway.keeper import Keeper, probe
from gateway.tickets import Condition, Progress
from gateway.upstream.address import shown
from gateway.upstream.base import EngineClient
from gateway.upstream.names import LookUp, system_look_up
from gateway.upstream.supervisor import SupervisorClient, SupervisorStatus, SupervisorUnreachable

POLL_S = 0.2
RETURN_POLL_S = 1.0
RETURN_POLL_MAX_S = 10.0
"""An engine of somebody else's that is away for long is looked for less often; a request looks at once."""
QUICK_PROBE_S = 2.0
FORCE_GRACE_S = 1.0
"""For an engine that is sick, or whose answers are to break off: time to say goodbye, not to drain."""


class ExternalEngine:
    """Engines of one model that somebody else starts and stops. All we do is to look."""

    managed = False

    def __init__(self, spec: ModelSpec, engine: EngineClient, look_up: LookUp = system_look_up) -> None:
        self.available = False
        self._keeper = Keeper(spec, engine, look_up)
        self.replicas = self._keeper.replicas

    @property
    def url(self) -> str:
        """All its addresses, for people."""
        return ", ".join(shown(replica.url) for replica in self.replicas.current)

    async def condition(self, timeout_s: float) -> Condition:
        seen = await self._keeper.look(timeout_s)
        self.available = seen == "answers"
        return seen

    async def start(self, say: Callable[[Progress], None]) -> None:
        """Blocks until one replica is there, however long that takes."""
        self.replicas.doubt()
        await self._keeper.until(lambda: self.replicas.any_up, RETURN_POLL_S, lambda: 0.0)
        self.available = True

    async def stop(self, *, force: bool) -> None:
        raise ModelUnavailable(
            f"The engine at {self.url} is not ours to stop.",
            hint="Give the model a `supervisor` or a `command` in the registry.",
        )

    async def logs(self, tail: int) -> list[str]:
        raise ModelUnavailable(f"The log of the engine at {self.url} is with whoever runs it.")

    async def watch(self, heard_at: Callable[[], float]) -> str:
        """A model lives as long as one of its replicas does."""
        if not self.replicas.any_up:
            self.replicas.trust()
        await self._keeper.until(lambda: self.replicas.all_down, RETURN_POLL_S, heard_at)
        self.available = False
        return self._why_down()

    def _why_down(self) -> str:
        gone = self.replicas.current
        reasons = [f"{shown(replica.url)}: {replica.reason}" for replica in gone]
        return gone[0].reason or "" if len(gone) == 1 else "no replica answers. " + " ".join(reasons)


class SupervisedEngine:
    """An engine whose supervisor starts and stops it at our word."""

    managed = True

    def __init__(self, spec: ModelSpec, url: str, engine: EngineClient, supervisor: SupervisorClient) -> None:
        self.url = url
        self.available = False
        self._spec = spec
        self._engine = engine
        self._supervisor = supervisor

    def supervised_by(self, supervisor: SupervisorClient) -> None:
        """A new supervisor has taken the place of one that died."""
        self._supervisor = supervisor

    async def status(self, *, memory: bool = False) -> SupervisorStatus | None:
        """What the supervisor says, with the engine's memory if asked; None when it cannot be reached."""
        try:
            status = await self._supervisor.status(memory=memory)
        except GatewayError:
            self.available = False
            return None
        self.available = True
        return status

    async def memory_bytes(self) -> int | None:
        """Main memory that the engine's processes take; None when nobody can say."""
        status = await self.status(memory=True)
        return status.memory_bytes if status else None

    async def condition(self, timeout_s: float) -> Condition:
        status = await self.status()
        if status is not None and status.state == "stopping":
            return "stopping"
        if status is not None and status.state != "running":
            return "ended"
        seen, _ = await probe(self._engine, self.url, timeout_s)
        return "loading" if status is not None and seen == "ended" else seen

    async def start(self, say: Callable[[Progress], None]) -> None:
        await self._supervisor.start()
        self.available = True
        patience = _Patience(self._spec.timeouts.start_s)
        passes = 0
        while passes < self._spec.probes.passes:
            status = await self.status()
            if status is not None:
                _check_alive(self._spec.id, status)
                say(Progress(status.phase or "starting", status.progress))
            if patience.is_over(status):
                raise EngineTimeout(_no_progress(self._spec, status))
            seen, _ = await probe(self._engine, self.url, self._spec.probes.timeout_s)
            passes = passes + 1 if seen == "answers" else 0
            if passes < self._spec.probes.passes:
                await asyncio.sleep(POLL_S)

    async def stop(self, *, force: bool) -> None:
        grace_s = self._spec.timeouts.stop_grace_s
        try:
            await self._supervisor.stop(min(grace_s, FORCE_GRACE_S) if force else grace_s)
        except SupervisorUnreachable:
            await self._check_both_are_gone()
            return
        status = await self.status()
        while status is None or status.state in ("running", "stopping"):
            if status is None:
                await self._check_both_are_gone()
                return
            await asyncio.sleep(POLL_S)
            status = await self.status()
        if status.state == "failed":
            raise EngineError(f"{self._spec.id} could not be ended: {status.reason or 'nobody knows why'}")

    async def _check_both_are_gone(self) -> None:
        """An engine dies with its supervisor: a container that was stopped from outside is no failure."""
        self.available = False
        seen, _ = await probe(self._engine, self.url, QUICK_PROBE_S)
        if seen != "ended":
            raise ModelUnavailable(
                f"The engine of {self._spec.id} still answers, but its supervisor cannot be reached.",
                hint="See whether the supervisor runs, and whether the network lets the gateway through.",
            )

    async def logs(self, tail: int) -> list[str]:
        return await self._supervisor.logs(tail)

    async def watch(self, heard_at: Callable[[], float]) -> str:
        """Whichever comes first: its supervisor says that it ended, or it no longer answers probes."""
        probes = _until_probes_fail(self._engine, self.url, self._spec.probes, heard_at)
        waits = [asyncio.create_task(probes), asyncio.create_task(self._until_it_ends())]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _until_it_ends(self) -> str:
        """Follow the supervisor. When it cannot be reached, the probes decide alone until it is back."""
        while True:
            try:
                async with aclosing(self._supervisor.events()) as statuses:
                    async for status in statuses:
                        self.available = True
                        if status.state != "running":
                            return _ended(status)
            except GatewayError:
                self.available = False
            await asyncio.sleep(POLL_S)


def _ended(status: SupervisorStatus) -> str:
    how = f"exit code {status.exit_code}" if status.exit_code is not None else "no exit code"
    if status.exit_signal is not None:
        how = f"signal {status.exit_signal}"
    return status.reason or f"the engine ended by itself ({how})"


def _check_alive(model: str, status: SupervisorStatus) -> None:
    if status.state in ("failed", "stopped"):
        how, last = _ended(status), status.lines[-1] if status.lines else "none"
        words = "" if last in how else f" Its last line: {last}"
        raise ModelUnavailable(
            f"{model} ended while it was starting: {how.removesuffix('.')}.{words}",
            hint=f"The engine's log has more: GET /v1/models/{model}/logs.",
        )


def _no_progress(spec: ModelSpec, status: SupervisorStatus | None) -> str:
    if status is None:
        return f"The supervisor of {spec.id} could not be reached for {spec.timeouts.start_s:g} s."
    last = status.lines[-1] if status.lines else "nothing"
    return (
        f"{spec.id} made no progress for {spec.timeouts.start_s:g} s while {status.phase or 'starting'}. "
        f"Its last line: {last}"
    )


class _Patience:
    """A start may take long, as long as something moves: a fixed limit kills slow but healthy loads.

    A line that differs from an earlier one in its digits alone is no move: TGI's launcher says every ten
    seconds, with the time, that it waits.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._step: object = None
        self._lines: set[str] = set()
        self._moved_at = time.monotonic()

    def is_over(self, status: SupervisorStatus | None) -> bool:
        now = time.monotonic()
        if status is not None and self._has_moved(status):
            self._moved_at = now
        return now - self._moved_at > self._limit_s

    def _has_moved(self, status: SupervisorStatus) -> bool:
        step = (status.phase, status.progress)
        lines = {_DIGITS.sub("", line) for line in status.lines} - self._lines
        moved = step != self._step or bool(lines)
        self._step = step
        self._lines |= lines
        return moved


_DIGITS = re.compile(r"\d+")


async def _until_probes_fail(
    engine: EngineClient, url: str, probes: Probes, heard_at: Callable[[], float]
) -> str:
    """Probe until the threshold is reached. An engine that sends tokens lives, whatever its probe says:
    TGI answers /health only between two forward passes."""
    failures = 0
    while True:
        await asyncio.sleep(probes.interval_s)
        begun = time.perf_counter()
        try:
            await engine.healthy(url, probes.timeout_s)
        except GatewayError as error:
            failures = 0 if heard_at() > begun else failures + 1
            if failures >= probes.fails:
                return f"{failures} probes in a row failed: {error.message}"
        else:
            failures = 0
