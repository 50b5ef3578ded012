"""Probing with thresholds both ways, against an engine that answers as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

import pytest

from gateway.config import ModelSpec
from gateway.errors import EngineError, EngineTimeout, ModelUnavailable
from gateway.lifecycle import ExternalEngine, SupervisedEngine
from gateway.tickets import Condition, Progress
from gateway.upstream.base import EngineUnreachable
from gateway.upstream.supervisor import SupervisorStatus, SupervisorUnreachable

URL = "http://127.0.0.1:1"
NOBODY_HEARD: Callable[[], float] = lambda: 0.0  # noqa: E731


def spec(**record: Any) -> ModelSpec:
    base = {"id": "m", "family": "chatml", "command": ["engine", "{port}"]}
    return ModelSpec.model_validate(base | record)


@dataclass
class ScriptedEngine:
    """Probe by probe: ``+`` healthy, ``-`` not, ``0`` nobody there, ``t`` too late; the last word holds."""

    script: str
    probes: int = 0
    _words: Iterator[str] = field(init=False)

    def __post_init__(self) -> None:
        self._words = chain(self.script, repeat(self.script[-1]))

    async def healthy(self, url: str, timeout_s: float) -> None:
        self.probes += 1
        match next(self._words):
            case "+":
                return
            case "0":
                raise EngineUnreachable("nobody there")
            case "t":
                raise EngineTimeout("no answer in time")
            case _:
                raise ModelUnavailable("no answer")


@dataclass
class ScriptedSupervisor:
    """Goes through statuses, one a question; the last one holds."""

    statuses: list[SupervisorStatus]
    stopped_with: float | None = None

    async def status(self, *, memory: bool = False) -> SupervisorStatus:
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]

    async def start(self) -> SupervisorStatus:
        return await self.status()

    async def stop(self, grace_s: float | None = None) -> SupervisorStatus:
        self.stopped_with = grace_s
        return await self.status()

    async def events(self) -> AsyncIterator[SupervisorStatus]:
        for status in self.statuses:
            yield status


def status(state: str = "running", phase: str | None = "loading", **more: Any) -> SupervisorStatus:
    fields = {
        "state": state,
        "since_unix_s": 0.0,
        "pid": 1,
        "exit_code": None,
        "exit_signal": None,
        "phase": phase,
        "progress": None,
        "starts": 1,
        "command": (),
        "lines": ("last words",),
        "memory_bytes": None,
        "reason": None,
    }
    return SupervisorStatus(**(fields | more))


def supervised(record: ModelSpec, engine: ScriptedEngine, supervisor: ScriptedSupervisor) -> SupervisedEngine:
    return SupervisedEngine(record, URL, engine, supervisor)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses between probes are not what is tested here."""
    monkeypatch.setattr("gateway.lifecycle.POLL_S", 0.0)
    monkeypatch.setattr("gateway.lifecycle.RETURN_POLL_S", 0.0)


@pytest.mark.parametrize(("passes", "script", "probes"), [(1, "-+", 2), (2, "-+-++", 5), (3, "+++", 3)])
async def test_engine_is_ready_after_enough_passes_in_a_row(passes: int, script: str, probes: int) -> None:
    engine = ScriptedEngine(script)
    record = spec(probes={"passes": passes})

    await supervised(record, engine, ScriptedSupervisor([status()])).start(lambda _: None)

    assert engine.probes == probes


@pytest.mark.parametrize(("passes", "script", "probes"), [(1, "--+", 3), (2, "+-++", 4)])
async def test_foreign_engine_is_back_after_enough_passes_in_a_row(
    passes: int, script: str, probes: int
) -> None:
    engine = ScriptedEngine(script)

    await ExternalEngine(spec(probes={"passes": passes}), URL, engine).start(lambda _: None)  # type: ignore[arg-type]

    assert engine.probes == probes


@pytest.mark.parametrize(("fails", "script", "probes"), [(1, "+-", 2), (3, "--+---", 6)])
async def test_engine_is_down_after_enough_failures_in_a_row(fails: int, script: str, probes: int) -> None:
    engine = ScriptedEngine(script)
    record = spec(probes={"fails": fails, "interval_s": 1e-6})

    reason = await ExternalEngine(record, URL, engine).watch(NOBODY_HEARD)  # type: ignore[arg-type]

    assert engine.probes == probes
    assert reason == f"{fails} probes in a row failed: no answer."


async def test_engine_that_sends_tokens_lives_whatever_its_probe_says() -> None:
    engine = ScriptedEngine("-")
    record = spec(probes={"fails": 1, "interval_s": 1e-6})
    tokens_until_probe = 50
    heard: Callable[[], float] = lambda: float("inf") if engine.probes < tokens_until_probe else 0.0  # noqa: E731

    await ExternalEngine(record, URL, engine).watch(heard)  # type: ignore[arg-type]

    assert engine.probes == tokens_until_probe


async def test_start_tells_how_far_it_is() -> None:
    said: list[Progress] = []
    statuses = [status(phase=None), status(), status(progress=0.5), status(phase="warming_up")]

    await supervised(spec(), ScriptedEngine("--+"), ScriptedSupervisor(statuses)).start(said.append)

    assert said == [Progress("loading"), Progress("loading", 0.5), Progress("warming_up")]


@pytest.mark.parametrize(
    ("ended", "how"),
    [
        (status("failed", None, exit_code=1), "exit code 1"),
        (status("failed", None, exit_signal=9), "signal 9"),
        (status("failed", None, reason="it ran out of memory"), "it ran out of memory"),
        (status("stopped", None), "no exit code"),
    ],
)
async def test_engine_that_ends_while_it_starts_says_how_and_its_last_words(
    ended: SupervisorStatus, how: str
) -> None:
    control = supervised(spec(), ScriptedEngine("-"), ScriptedSupervisor([status(), status(), ended]))

    with pytest.raises(ModelUnavailable) as caught:
        await control.start(lambda _: None)

    assert how in caught.value.message
    assert "last words" in caught.value.message


async def test_start_without_progress_fails_and_one_with_progress_does_not() -> None:
    slow = [status(progress=step / 100) for step in range(100)]
    record = spec(timeouts={"start_s": 1e-9})

    with pytest.raises(EngineTimeout, match="made no progress for 1e-09 s while loading"):
        await supervised(record, ScriptedEngine("-"), ScriptedSupervisor([status()])).start(lambda _: None)
    await supervised(record, ScriptedEngine("-" * 50 + "+"), ScriptedSupervisor(slow)).start(lambda _: None)


async def test_line_that_differs_in_its_time_alone_is_no_progress() -> None:
    waits = [status(lines=(f"2026-11-23T20:{minute}:00 waiting for shard",)) for minute in range(10, 60)]
    record = spec(timeouts={"start_s": 1e-9})

    with pytest.raises(EngineTimeout, match="made no progress"):
        await supervised(record, ScriptedEngine("-" * 49 + "+"), ScriptedSupervisor(waits)).start(
            lambda _: None
        )


async def test_start_survives_a_supervisor_that_misses_a_question() -> None:
    class Deaf(ScriptedSupervisor):
        asked = 0

        async def status(self, *, memory: bool = False) -> SupervisorStatus:
            self.asked += 1
            if self.asked % 2 == 0:
                raise SupervisorUnreachable(URL, "timed out")
            return await super().status()

    await supervised(spec(), ScriptedEngine("---+"), Deaf([status()])).start(lambda _: None)


@pytest.mark.parametrize(
    ("state", "probes", "seen"),
    [
        ("running", "+", "answers"),
        ("running", "t", "busy"),
        ("running", "0", "loading"),
        ("stopping", "+", "stopping"),
        ("stopped", "0", "ended"),
        ("failed", "0", "ended"),
    ],
)
async def test_supervisors_word_and_the_probe_make_the_condition(
    state: str, probes: str, seen: Condition
) -> None:
    control = supervised(spec(), ScriptedEngine(probes), ScriptedSupervisor([status(state)]))

    assert await control.condition(1.0) == seen
    assert control.available


class Away(ScriptedSupervisor):
    """A supervisor that cannot be reached."""

    async def status(self, *, memory: bool = False) -> SupervisorStatus:
        raise SupervisorUnreachable(URL, "cannot be reached")

    async def stop(self, grace_s: float | None = None) -> SupervisorStatus:
        raise SupervisorUnreachable(URL, "cannot be reached")


@pytest.mark.parametrize(("probes", "seen"), [("+", "answers"), ("t", "busy"), ("0", "ended")])
async def test_engine_without_its_supervisor_is_judged_by_its_probe(probes: str, seen: Condition) -> None:
    control = supervised(spec(), ScriptedEngine(probes), Away([]))

    assert await control.condition(1.0) == seen
    assert not control.available


async def test_container_that_was_stopped_from_outside_is_gone() -> None:
    await supervised(spec(), ScriptedEngine("0"), Away([])).stop(force=False)


async def test_engine_that_answers_without_its_supervisor_cannot_be_stopped() -> None:
    with pytest.raises(ModelUnavailable, match="still answers, but its supervisor cannot be reached"):
        await supervised(spec(), ScriptedEngine("+"), Away([])).stop(force=False)


async def test_engine_that_survives_its_kill_is_an_error() -> None:
    supervisor = ScriptedSupervisor([status("stopping"), status("failed", reason="process 7 is still there")])

    with pytest.raises(EngineError, match="could not be ended: process 7 is still there"):
        await supervised(spec(), ScriptedEngine("-"), supervisor).stop(force=True)


@pytest.mark.parametrize(("force", "grace_s"), [(False, 40.0), (True, 1.0)])
async def test_stop_drains_unless_it_is_forced(force: bool, grace_s: float) -> None:
    supervisor = ScriptedSupervisor([status(), status("stopping"), status("stopped")])

    await supervised(spec(timeouts={"stop_grace_s": 40}), ScriptedEngine("-"), supervisor).stop(force=force)

    assert supervisor.stopped_with == grace_s
    assert len(supervisor.statuses) == 1


async def test_supervisors_word_ends_the_watch_at_once() -> None:
    supervisor = ScriptedSupervisor([status(), status("failed", None, exit_code=3)])
    record = spec(probes={"interval_s": 3600})

    async with asyncio.timeout(10):
        reason = await supervised(record, ScriptedEngine("+"), supervisor).watch(NOBODY_HEARD)

    assert reason == "the engine ended by itself (exit code 3)"


async def test_new_supervisor_is_asked_when_the_old_one_is_gone() -> None:
    class Gone(ScriptedSupervisor):
        async def events(self) -> AsyncIterator[SupervisorStatus]:
            control.supervised_by(ScriptedSupervisor([status("stopped", None)]))  # type: ignore[arg-type]
            raise SupervisorUnreachable(URL, "is gone")
            yield status()

    control = supervised(spec(probes={"interval_s": 3600}), ScriptedEngine("+"), Gone([status()]))

    async with asyncio.timeout(10):
        reason = await control.watch(NOBODY_HEARD)

    assert "ended by itself" in reason


async def test_only_a_managed_engine_can_be_stopped() -> None:
    with pytest.raises(ModelUnavailable, match="not ours to stop"):
        await ExternalEngine(spec(), URL, ScriptedEngine("+")).stop(force=True)  # type: ignore[arg-type]


async def test_engine_that_is_away_for_long_is_looked_for_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    engine = ScriptedEngine("0" * 12 + "+")

    async def noted(pause_s: float) -> None:
        pauses.append(pause_s)

    monkeypatch.setattr("gateway.lifecycle.RETURN_POLL_S", 1.0)
    monkeypatch.setattr("gateway.lifecycle.asyncio.sleep", noted)
    await ExternalEngine(spec(), URL, engine).start(lambda _: None)  # type: ignore[arg-type]

    assert len(pauses) == 12
    assert 0.75 <= pauses[0] <= 1.25
    assert max(pauses) <= 12.5
    assert sum(pauses[-5:]) > 30  # a look every ten seconds or so, and never all at the same moment
    assert len(set(pauses)) > 10
