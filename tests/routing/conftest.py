"""One gateway in front of engines that answer, and of models that fail in every way there is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from harness import Running, free_port, model, owned, start_echo, start_gateway


@pytest.fixture(scope="package")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("routing")
    well = start_echo(folder)
    # It ends itself before its first token, and does not come back.
    broken = start_echo(folder, fail="mid-stream", fail_after_tokens=0)
    midway = start_echo(folder, fail="hang", fail_after_tokens=2)
    impatient = {"timeouts": {"between_tokens_s": 0.3}}
    registry = {
        "models": [
            model(well.url, id="a"),
            model(well.url, id="b", family="smollm2"),
            model(f"http://127.0.0.1:{free_port()}", id="away"),
            model(broken.url, id="broken"),
            model(midway.url, id="midway", **impatient),
            model(midway.url, id="midway-too", **impatient),
            model(well.url, id="full", limits={"max_concurrent": 1, "max_queue": 0}),
            owned("unloadable", fail="load", load_s=0.2),
        ],
        "aliases": {
            "chat": {"split": {"a": 1, "b": 1}, "sticky": "session"},
            "by-user": {"split": {"a": 1, "b": 1}, "sticky": "user"},
            "anyone": {"split": {"a": 1, "b": 1}, "sticky": "none"},
            "guarded": {"to": "away", "fallback": ["broken", "b"]},
            "half": {"split": {"away": 1, "b": 1}, "fallback": ["b"]},
            "hopeless": {"to": "away", "fallback": ["broken"]},
            "plain": "a",
        },
    }
    running = start_gateway(folder, registry, log_level="info", heartbeat_s=0.4)
    yield running
    for one in (running, well, broken, midway):
        one.stop()


@pytest.fixture
async def client(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as found:
        yield found
