"""A gateway as it is served, beside the same application behind plain uvicorn; one engine for both."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import Running, free_port, launch, model, start_echo, start_gateway

MAX_BODY_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Pair:
    """``served`` is under test. ``ordinary`` says what is right."""

    served: Running
    ordinary: Running


def start_pair(folder: Path, engine: Running | str, **settings: Any) -> Pair:
    """``engine``: it, or its address."""
    url = engine if isinstance(engine, str) else engine.url
    record = model(url, aliases=["mirror"], limits={"max_concurrent": 256, "max_queue": 256})
    registry = {"models": [record]}
    settings = {"max_body_bytes": MAX_BODY_BYTES, **settings}
    return Pair(start_gateway(folder, registry, **settings), start_ordinary(folder, registry, **settings))


def start_ordinary(folder: Path, registry: dict[str, Any], **settings: Any) -> Running:
    port = free_port()
    config = folder / f"models-{port}.yaml"
    config.write_text(yaml.safe_dump(registry), encoding="utf-8")
    env = {f"GATEWAY_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, str(Path(__file__).with_name("ordinary.py")), str(port)]
    return launch(
        command,
        f"http://127.0.0.1:{port}",
        folder / f"ordinary-{port}.log",
        env | {"GATEWAY_CONFIG": str(config)},
    )


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_echo(tmp_path_factory.mktemp("engine"), max_concurrent=1000)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def pair(engine: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both without keys, shared by a module's tests."""
    found = start_pair(tmp_path_factory.mktemp("pair"), engine)
    yield found
    found.served.stop()
    found.ordinary.stop()


@pytest.fixture(scope="module")
def locked(engine: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both with the key ``secret``."""
    found = start_pair(tmp_path_factory.mktemp("locked"), engine, api_key="secret")
    yield found
    found.served.stop()
    found.ordinary.stop()


@pytest.fixture(autouse=True)
def no_faults(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing that a client sends makes a gateway write a traceback."""
    yield
    for name in ("pair", "locked"):
        if name in request.fixturenames:
            assert "Traceback" not in request.getfixturevalue(name).served.output
