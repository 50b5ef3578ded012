"""Shared fixtures. What they start, they end."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

# Tests are of the sources, also where `make compile` was run, but for the lane that names what it compiled.
os.environ.setdefault("GATEWAY_COMPILED", "off")

import httpx
import pytest
import uvloop
from harness import Running, model, start_echo, start_gateway
from hypothesis import settings

from gateway import CODE, compiled

Start = Callable[..., Running]

# Speed is a benchmark, never a timed test: a busy machine is no counterexample.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_report_header() -> str:
    """Whose code is tested: the sources, or what was compiled of them."""
    return f"gateway: {CODE}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With TESTS_OBLIGATORY=1, as in CI, a skipped test is a failure: its summary says what was missing."""
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("TESTS_OBLIGATORY") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the event loop that is served on: it tells of lost connections in another order than
    asyncio's own. What speaks to engines has to get on with both."""
    served: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}
    if item.path.name.startswith(("test_push", "test_transport")):
        served["asyncio"] = asyncio.SelectorEventLoop
    return served


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what its processes have said: of a run elsewhere nothing else is left."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for log in sorted(_logs(item)):
            report.sections.append((log.name, "\n".join(_last_lines(log))))
    return report


def _logs(item: pytest.Function) -> set[Path]:
    """Of what was started for this test, and of what it shares with others."""
    given = item.funcargs.values()
    folder = item.funcargs.get("tmp_path")
    own = folder.rglob("*.log") if isinstance(folder, Path) else ()
    return {*own, *(one.log for one in given if isinstance(one, Running))}


def _last_lines(log: Path, count: int = 60) -> list[str]:
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]
    except OSError as error:
        return [f"cannot be read: {error}"]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests reaches them."""
    for name in os.environ:
        if name.startswith("GATEWAY_") and name != compiled.VARIABLE:  # that is whose code is tested
            monkeypatch.delenv(name)


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Start]:
    """Start echo engines: ``echo(tokens_per_s=50)``."""
    started: list[Running] = []

    def start(**options: Any) -> Running:
        started.append(start_echo(tmp_path, **options))
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Start]:
    """Start gateways: ``gateway(registry, api_key="k")``."""
    started: list[Running] = []

    def start(registry: dict[str, Any], **settings: Any) -> Running:
        started.append(start_gateway(tmp_path, registry, **settings))
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.fixture(scope="module")
def fast_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An echo engine without any delay, shared by a module's tests."""
    running = start_echo(tmp_path_factory.mktemp("engine"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def served(fast_engine: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway in front of ``fast_engine``, shared by a module's tests."""
    registry = {
        "models": [
            model(fast_engine.url, aliases=["mirror"], languages=["en"]),
            model(fast_engine.url, id="llama", family="llama3"),
        ]
    }
    running = start_gateway(tmp_path_factory.mktemp("gateway"), registry)
    yield running
    running.stop()


@pytest.fixture
async def client(served: Running) -> AsyncIterator[httpx.AsyncClient]:
    """A client of ``served``."""
    async with httpx.AsyncClient(base_url=served.url, timeout=20) as http:
        yield http


@pytest.fixture(scope="session")
def stub_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for the NVIDIA driver's library, compiled for this run. What it shows is in its source."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
    source = Path(__file__).parent / "nvml_stub" / "nvml_stub.c"
    subprocess.run([compiler, *flags, "-Wl,-soname,libnvidia-ml.so.1", "-o", library, source], check=True)
    return library
