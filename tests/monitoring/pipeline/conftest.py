"""The pipeline, once for all tests: gateway, engines, sidecar, Telegraf, InfluxDB, and clients that count."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import REPOSITORY
from panels import Window
from processes import Influx, Telegraf
from scene import Scene, play
from stage import Stage

# Without these the lane says why it does not run; with TESTS_OBLIGATORY=1 that is a failure.
SCRIPTS = {"telegraf": "scripts/telegraf.sh", "influxdb": "scripts/influxdb.sh"}


@pytest.fixture(autouse=True)
def longer(request: pytest.FixtureRequest) -> None:
    """The first test waits for the whole scene."""
    request.node.add_marker(pytest.mark.timeout(420))


@pytest.fixture(scope="session")
def programs() -> dict[str, str]:
    """Paths of the real programs. Where one cannot be had its script says why, and so does the skip."""
    found: dict[str, str] = {}
    for name, script in SCRIPTS.items():
        done = subprocess.run([REPOSITORY / script], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{name}: {done.stderr.strip()}")
        found[name] = done.stdout.strip()
    return found


@pytest.fixture(scope="session")
def database(programs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx]:
    influx = Influx(programs["influxdb"], tmp_path_factory.mktemp("pipeline") / "influx")
    influx.ready()
    try:
        influx.set_up()
        yield influx
    finally:
        influx.end()


@pytest.fixture(scope="session")
def telegraf(
    programs: dict[str, str], database: Influx, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Telegraf]:
    process = Telegraf(programs["telegraf"], tmp_path_factory.mktemp("telegraf"), database.url)
    try:
        process.ready()
        yield process
    finally:
        process.end()


@pytest.fixture(scope="session")
def stage(
    database: Influx, telegraf: Telegraf, stub_library: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """The scene has been played and everything is stored; gateway and pipeline still run."""
    scene = Scene(tmp_path_factory.mktemp("scene"), telegraf.port, stub_library)
    with scene.running() as gateway:
        start_ms = _now_ms()
        tally = asyncio.run(play(scene, gateway))
        stage = Stage(database, telegraf, gateway, tally, Window(start_ms, _now_ms() + 3000))
        stage.settled()
        yield stage


def _now_ms() -> int:
    return int(time.time() * 1000)


@pytest.fixture(scope="session")
def answers_folder() -> Path | None:
    """Where answers are kept for the drawings, if anybody wants them."""
    wanted = os.environ.get("PIPELINE_ANSWERS")
    return Path(wanted) if wanted else None
