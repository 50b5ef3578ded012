"""How the gateway sees supervisors: children it starts itself, and the client that speaks to any of them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.children import SupervisorChild, spawn
from gateway.errors import ModelUnavailable
from gateway.upstream.supervisor import (
    SupervisorClient,
    SupervisorStatus,
    SupervisorUnreachable,
    parse_status,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

ENGINE = (
    "import os, time; print('phase=ready', os.environ.get('MODEL'), os.getcwd(), flush=True); time.sleep(600)"
)
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + ENGINE
STATUS: dict[str, Any] = {
    "state": "running",
    "since": 12.5,
    "pid": 7,
    "exit_code": None,
    "exit_signal": None,
    "phase": "loading",
    "progress": 0.5,
    "starts": 1,
    "command": ["engine"],
    "lines": ["a"],
    "memory_bytes": 1024,
    "reason": None,
}

Spawn = Callable[..., Awaitable[SupervisorChild]]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def until(client: SupervisorClient, condition: Callable[[SupervisorStatus], bool]) -> SupervisorStatus:
    async with asyncio.timeout(10), aclosing(client.events()) as events:
        async for status in events:
            if condition(status):
                return status
    raise AssertionError("the events ended before it happened")


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


@pytest.fixture
async def start_child() -> AsyncIterator[Spawn]:
    children: list[SupervisorChild] = []

    async def begin(engine: str = ENGINE, **options: Any) -> SupervisorChild:
        command = [sys.executable, "-IS", "-c", engine]
        children.append(await spawn(command, name="qwen2", grace_s=options.pop("grace_s", 0.3), **options))
        return children[-1]

    yield begin
    for child in children:
        await child.stop()


async def test_a_child_is_started_watched_and_stopped(start_child: Spawn, http: httpx.AsyncClient) -> None:
    child = await start_child()
    client = SupervisorClient(http, child.url, child.token)
    assert (await client.status()).state == "stopped"

    started = await client.start()
    assert (started.state, started.starts) == ("running", 1)
    assert started.phase in ("starting", "ready")  # it may say so before the answer is written
    ready = await until(client, lambda status: status.phase == "ready")
    assert ready.pid is not None
    assert alive(ready.pid)
    assert ready.memory_bytes is None
    assert (await client.status()).memory_bytes is None
    assert ((await client.status(memory=True)).memory_bytes or 0) > 1_000_000

    assert (await client.stop(grace_s=0.2)).state == "stopping"
    stopped = await until(client, lambda status: status.state == "stopped")
    assert stopped.since_unix_s > started.since_unix_s
    assert stopped.exit_signal == signal.SIGTERM


async def test_the_engine_gets_its_environment_and_the_gateways_folder(
    start_child: Spawn, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    child = await start_child(env={**os.environ, "MODEL": "qwen2-7b"}, log_path=tmp_path / "engine.log")
    client = SupervisorClient(http, child.url, child.token)
    await client.start()
    await until(client, lambda status: status.phase == "ready")
    assert await client.logs(tail=1) == [f"phase=ready qwen2-7b {Path.cwd()}"]
    await wait_until(lambda: "qwen2-7b" in (tmp_path / "engine.log").read_text())


@pytest.mark.parametrize("handed", [True, False], ids=["handed in", "inherited"])
async def test_the_engine_gets_nothing_of_the_gateways_own(
    start_child: Spawn, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, handed: bool
) -> None:
    own = {"GATEWAY_API_KEYS": "k", "GATEWAY_HOST": "h", "SUPERVISOR_TOKEN": "t", "MODEL": "m"}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    child = await start_child(
        "import os, time; print('phase=ready', *os.environ, flush=True); time.sleep(600)",
        env={**os.environ} if handed else None,
    )
    client = SupervisorClient(http, child.url, child.token)
    await client.start()
    await until(client, lambda status: status.phase == "ready")
    (line,) = await client.logs(tail=1)
    assert own.keys() & set(line.split()) == {"MODEL"}
    assert b"GATEWAY_" not in environment_of(child.pid)


async def test_a_stop_ends_even_an_engine_that_does_not_want_to(
    start_child: Spawn, http: httpx.AsyncClient
) -> None:
    child = await start_child(STUBBORN)
    client = SupervisorClient(http, child.url, child.token)
    await client.start()
    engine = (await until(client, lambda status: status.phase == "ready")).pid
    assert engine is not None
    assert await child.stop() == 0
    assert not alive(engine)
    assert await child.stop() == 0  # and may be asked again


async def test_the_death_of_a_supervisor_is_noticed_and_takes_the_engine_along(
    start_child: Spawn, http: httpx.AsyncClient
) -> None:
    child = await start_child()
    client = SupervisorClient(http, child.url, child.token)
    await client.start()
    engine = (await until(client, lambda status: status.phase == "ready")).pid
    assert engine is not None
    async with aclosing(client.events()) as events:
        await anext(events)
        os.kill(child.pid, signal.SIGKILL)
        assert [status async for status in events] == []
    assert await child.wait() == -signal.SIGKILL
    await wait_until(lambda: not alive(engine))
    with pytest.raises(SupervisorUnreachable, match="cannot be reached") as caught:
        await client.status()
    assert (caught.value.url, caught.value.status) == (child.url, 503)


async def test_a_gateway_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    program = f"""
import asyncio, httpx, sys
from gateway.children import spawn
from gateway.upstream.supervisor import SupervisorClient

async def main():
    child = await spawn([sys.executable, "-IS", "-c", {STUBBORN!r}], name="m", grace_s=0.2)
    async with httpx.AsyncClient() as http:
        client = SupervisorClient(http, child.url, child.token)
        await client.start()
        async for status in client.events():
            if status.phase == "ready":
                break
    print(child.pid, status.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
    gateway = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    assert gateway.stdout is not None
    line = await asyncio.wait_for(gateway.stdout.readline(), 20)
    pids = [int(pid) for pid in line.split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    gateway.kill()
    await gateway.wait()
    await wait_until(lambda: not any(map(alive, pids)))


async def test_a_command_that_cannot_run_is_a_failed_engine_and_not_a_failed_spawn(
    http: httpx.AsyncClient,
) -> None:
    child = await spawn(["/nowhere/engine"], name="qwen2", grace_s=1)
    try:
        failed = await SupervisorClient(http, child.url, child.token).start()
        assert failed.state == "failed"
        assert "/nowhere/engine" in (failed.reason or "")
    finally:
        await child.stop()


async def test_a_supervisor_that_does_not_come_up_is_said_with_the_models_name(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="qwen2"):
        await spawn([], name="qwen2", log_path=tmp_path / "log")
    assert "a command after --" in (tmp_path / "log").read_text()


async def test_a_spawn_that_the_system_refuses_is_said_with_the_models_name_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelUnavailable, match=r"qwen2.*Is a directory"):
        await spawn(["true"], name="qwen2", log_path=tmp_path)
    with pytest.raises(ModelUnavailable, match=r"qwen2.*Argument list too long"):
        await spawn(["x" * 4_000_000], name="qwen2")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ModelUnavailable, match=r"qwen2.*No such file or directory: '/nowhere/python'"):
        await spawn(["true"], name="qwen2")


@pytest.mark.parametrize(
    ("token", "said"),
    [("wrong-token", "does not accept the token"), (None, "asks for a token and none is set")],
)
async def test_a_token_that_is_not_accepted_is_said_and_never_shown(
    start_child: Spawn, http: httpx.AsyncClient, token: str | None, said: str
) -> None:
    child = await start_child()
    client = SupervisorClient(http, child.url, token)
    for ask in (client.status, client.start, client.stop, client.logs, lambda: anext(client.events())):
        with pytest.raises(SupervisorUnreachable, match=said) as caught:
            await ask()
        assert caught.value.status_code == 401
        assert caught.value.hint
        assert str(token) not in f"{caught.value} {caught.value.hint} {client!r}"
    assert child.token not in repr(child)


async def test_a_start_while_stopping_carries_the_supervisors_words(
    start_child: Spawn, http: httpx.AsyncClient
) -> None:
    child = await start_child(STUBBORN)
    client = SupervisorClient(http, child.url, child.token)
    await client.start()
    await until(client, lambda status: status.phase == "ready")
    await client.stop(grace_s=30)
    with pytest.raises(SupervisorUnreachable, match="cannot start: the engine is stopping") as caught:
        await client.start()
    assert caught.value.status_code == 409


async def test_an_unknown_phase_of_a_newer_supervisor_is_no_phase() -> None:
    assert parse_status({**STATUS, "phase": "thawing"}).phase is None
    assert parse_status(STATUS).phase == "loading"


@pytest.mark.parametrize(
    "answer",
    [
        [],
        None,
        {},
        {"state": "gone", "since": 1},
        {"state": "running", "since": "x"},
        {**STATUS, "since": 1e999},
    ],
)
async def test_what_is_no_status_is_refused(answer: object) -> None:
    with pytest.raises(ValueError, match="status"):
        parse_status(answer)


async def test_something_else_on_the_port_is_said(http: httpx.AsyncClient) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(SupervisorUnreachable, match="sent no status"):
            await SupervisorClient(http, f"http://127.0.0.1:{port}", "t").status()
