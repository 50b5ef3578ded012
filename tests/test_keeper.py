"""Names that change, resolvers that fail, and what is remembered of addresses that are gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway import keeper as keeping
from gateway.config import ModelSpec
from gateway.errors import ModelUnavailable
from gateway.keeper import Keeper
from gateway.upstream.base import EngineUnreachable
from gateway.upstream.names import system_look_up


def spec(url: str = "http://engines.test:80", **record: Any) -> ModelSpec:
    return ModelSpec.model_validate({"id": "m", "family": "chatml", "url": url} | record)


@dataclass
class Engines:
    """Answers probes as it is told, by address; says what it was told to forget."""

    conditions: dict[str, str] = field(default_factory=dict)
    forgotten: list[str] = field(default_factory=list)

    async def healthy(self, url: str, timeout_s: float) -> None:
        match self.conditions.get(url, "answers"):
            case "ended":
                raise EngineUnreachable("nobody there")
            case "busy":
                raise ModelUnavailable("no answer")
            case "hangs":
                await asyncio.Event().wait()

    def forget(self, url: str) -> None:
        self.forgotten.append(url)


@dataclass
class Resolver:
    """What each name stands for; a name that is not there cannot be resolved."""

    names: dict[str, Sequence[str]]
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.names:
            raise OSError(-2, "Name or service not known")
        return self.names[host]


def keeper(record: ModelSpec, engines: Engines, resolver: Resolver) -> Keeper:
    return Keeper(record, engines, resolver)  # type: ignore[arg-type]


def urls(kept: Keeper) -> list[str]:
    return [replica.url for replica in kept.replicas.current]


async def test_a_name_becomes_its_addresses_of_both_versions_in_one_order() -> None:
    resolver = Resolver({"engines.test": ["fd00::2", "10.0.0.3", "10.0.0.2", "10.0.0.3"]})
    kept = keeper(spec("http://user:secret@engines.test:8080/v1"), Engines(), resolver)

    assert await kept.look(1.0) == "answers"

    assert urls(kept) == [
        "http://user:secret@10.0.0.2:8080/v1#engines.test:8080",
        "http://user:secret@10.0.0.3:8080/v1#engines.test:8080",
        "http://user:secret@[fd00::2]:8080/v1#engines.test:8080",
    ]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:80", "http://[::1]:80", "http://localhost", "https://engines.test"]
)
async def test_numbers_this_machine_and_https_are_not_looked_up(url: str) -> None:
    resolver = Resolver({})
    kept = keeper(spec(url), Engines(), resolver)
    await kept.look(1.0)

    assert (urls(kept), resolver.asked) == ([url], [])


async def test_names_are_left_alone_when_the_operator_says_so() -> None:
    resolver = Resolver({"engines.test": ["10.0.0.2"]})
    kept = keeper(spec(routing={"resolve_s": 0}), Engines(), resolver)
    await kept.look(1.0)

    assert (urls(kept), resolver.asked) == (["http://engines.test:80"], [])


async def test_an_engine_that_is_named_twice_is_one() -> None:
    record = spec(replicas=["http://10.0.0.2:80", "http://10.0.0.9:80"])
    kept = keeper(record, Engines(), Resolver({"engines.test": ["10.0.0.2"]}))
    await kept.look(1.0)

    assert urls(kept) == ["http://10.0.0.2:80#engines.test:80", "http://10.0.0.9:80"]


async def test_a_name_that_cannot_be_resolved_keeps_its_addresses_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "gateway.models")
    resolver = Resolver({"engines.test": ["10.0.0.2"]})
    kept = keeper(spec(), Engines(), resolver)
    await kept.look(1.0)
    found = urls(kept)

    del resolver.names["engines.test"]
    for _ in range(3):
        await kept._resolve()
    assert urls(kept) == found
    resolver.names["engines.test"] = []
    await kept._resolve()
    assert urls(kept) == found
    resolver.names["engines.test"] = ["10.0.0.2"]
    await kept._resolve()

    kept_as = "http://10.0.0.2:80 (engines.test:80)"
    assert caplog.messages == [
        f"engines.test cannot be resolved (Name or service not known); addresses kept: {kept_as}",
        "engines.test is resolved again",
    ]


async def test_what_is_gone_is_forgotten_once_its_last_request_has_ended() -> None:
    engines, resolver = Engines(), Resolver({"engines.test": ["10.0.0.2", "10.0.0.3"]})
    kept = keeper(spec(), engines, resolver)
    await kept.look(1.0)
    engines.forgotten.clear()
    visit = kept.replicas.enter(0.0)
    other = kept.replicas.enter(0.0).replica.url

    resolver.names["engines.test"] = ["10.0.0.4"]
    kept.replicas.leave(kept.replicas.enter(0.0), "answered", 0.0)
    await kept._resolve()
    assert engines.forgotten == []

    kept.replicas.leave(visit, "answered", 1.0)
    assert engines.forgotten == [visit.replica.url]
    assert other in [replica.url for replica in kept.replicas.all]


async def test_a_look_does_not_wait_for_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "LOOK_ON_S", 0.0)
    record = spec("http://10.0.0.1:80", replicas=["http://10.0.0.2:80", "http://10.0.0.3:80"])
    engines = Engines({"http://10.0.0.1:80": "hangs", "http://10.0.0.2:80": "ended"})
    kept = keeper(record, engines, Resolver({}))

    async with asyncio.timeout(5):
        assert await kept.look(60.0) == "answers"

    assert [replica.state for replica in kept.replicas.all] == ["down", "down", "ready"]


async def test_a_failure_of_ours_is_not_swallowed() -> None:
    class Broken(Engines):
        async def healthy(self, url: str, timeout_s: float) -> None:
            raise RuntimeError("a fault of ours")

    kept = keeper(spec("http://10.0.0.1:80"), Broken(), Resolver({}))

    with pytest.raises(RuntimeError, match="a fault of ours"):
        async with asyncio.timeout(5):
            await kept.until(lambda: False, 1.0, lambda: 0.0)


async def test_look_ups_of_a_resolver_that_hangs_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "FIRST_NAMES_S", 0.001)
    answer = asyncio.Event()

    class Hanging(Resolver):
        async def __call__(self, host: str, port: int) -> Sequence[str]:
            self.asked.append(host)
            await answer.wait()
            return self.names[host]

    resolver = Hanging({"engines.test": ["10.0.0.2"]})
    kept = keeper(spec(), Engines(), resolver)
    for _ in range(5):
        assert await kept.look(1.0) == "answers"
    assert (resolver.asked, urls(kept)) == (["engines.test"], ["http://engines.test:80"])

    answer.set()
    await kept._resolve()
    assert (resolver.asked, urls(kept)) == (["engines.test"], ["http://10.0.0.2:80#engines.test:80"])


async def test_the_system_resolves_without_holding_the_loop_up() -> None:
    assert set(await system_look_up("localhost", 80)) <= {"127.0.0.1", "::1"}
    with pytest.raises(OSError, match=r".+"):
        await system_look_up("no-such-name.invalid", 80)
