"""Engines to test against; see engine_process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_process import Engine, launch

from gateway.engine import weights


@pytest.fixture
def start_engine() -> Iterator[Callable[..., Engine]]:
    """Start engines with any arguments; all are ended with the test."""
    started: list[Engine] = []

    def start(*arguments: str, env: dict[str, str] | None = None) -> Engine:
        started.append(launch(*arguments, env=env))
        return started[-1]

    yield start
    for engine in started:
        engine.finish()


@pytest.fixture
def start_echo(start_engine: Callable[..., Engine]) -> Callable[..., Engine]:
    return lambda *arguments: start_engine("--backend", "echo", "--model-id", "echo", *arguments)


@pytest.fixture(scope="session")
def small_model() -> str:
    """The path of the small model, which tests never download by themselves."""
    folder = weights.cache_folder()
    path = os.environ.get("GATEWAY_MODEL_PATH") or str(folder / weights.Q4_1_FILE)
    if not Path(path).is_file():
        pytest.skip("the small model is not there: make fetch-model")
    return path


@pytest.fixture(scope="session")
def echo_engine() -> Iterator[Engine]:
    limits = ("--max-input-tokens", "255", "--max-total-tokens", "256")
    engine = launch(
        "--backend", "echo", "--model-id", "tested", "--slots", "2", "--tokens-per-s", "100", *limits
    )
    yield engine.wait_ready()
    engine.finish()


@pytest.fixture(scope="session")
def llama_engine(small_model: str) -> Iterator[Engine]:
    slots = ("--slots", "2", "--context-per-slot", "256")
    engine = launch("--backend", "llama", "--model", small_model, "--model-id", "tested", *slots)
    yield engine.wait_ready()
    engine.finish()


@pytest.fixture(params=["echo", pytest.param("llama", marks=pytest.mark.weights)])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each backend in turn: two slots of 256 tokens."""
    found: Engine = request.getfixturevalue(f"{request.param}_engine")
    return found
