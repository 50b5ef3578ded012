"""Containers on a real Docker Engine. The lane's images are built once for a session."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import engine_room
import httpx
import pytest
import yaml
from engine_room import Daemon, Project
from harness import REPOSITORY, free_port

CLOCKS = {"connect_s": 2, "first_token_s": 4, "between_tokens_s": 4, "stop_grace_s": 5, "wait_s": 60}


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    if reason := engine_room.missing():
        pytest.skip(reason)
    engine_room.cache().mkdir(parents=True, exist_ok=True)
    running = engine_room.start_daemon(tmp_path_factory.mktemp("docker"))
    try:
        engine_room.build_images(running, embedded=True)
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def project(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Project]]:
    """``project("name", "docker-compose.yml", …)``: started, with weights; ended with the module."""
    started: list[Project] = []

    def start(name: str, *files: str, services: tuple[str, ...] = ()) -> Project:
        folder = tmp_path_factory.mktemp(name)
        copy_into(folder)
        one = Project(daemon, folder, name, files, free_port())
        started.append(one)
        one.compose("up", "-d", "--wait", *services)
        return one

    yield start
    for one in reversed(started):
        one.compose("down", "--volumes", "--timeout", "5")


def copy_into(folder: Path) -> None:
    for file in REPOSITORY.glob("docker-compose*.yml"):
        shutil.copy(file, folder)
    shutil.copytree(REPOSITORY / "monitoring", folder / "monitoring")
    (folder / "gateway").mkdir()
    shutil.copy(REPOSITORY / "gateway/supervisor.py", folder / "gateway")
    (folder / "models").mkdir()
    for file in (REPOSITORY / "models").glob("*.yaml"):
        shutil.copy(file, folder / "models")
    hasten(folder / "models/models.yaml")
    for model in ("qwen2", "llama3"):
        weights = folder / "models" / model
        weights.mkdir()
        (weights / "config.json").write_text("{}")


def hasten(path: Path) -> None:
    """The shipped registry with clocks that a test can wait for."""
    registry = yaml.safe_load(path.read_text())
    registry["switching"] |= {"min_residency_s": 0, "max_wait_s": 2}
    for model in registry["models"]:
        model["timeouts"] = {**model.get("timeouts", {}), **CLOCKS}
        model["probes"] = {"interval_s": 1, "timeout_s": 2, "fails": 2}
    path.write_text(yaml.safe_dump(registry))


def client_of(project: Project) -> httpx.Client:
    headers = {"authorization": f"Bearer {project.key()}"}
    return httpx.Client(base_url=project.url, headers=headers, timeout=90)
