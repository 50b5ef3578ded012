"""The doctor names each fault that is planted on a machine: real programs, ports and files, stand-ins for
Docker and the driver."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import start_echo

from gateway.cli import load_registry, main
from gateway.doctor import containers, machine, models
from gateway.doctor.findings import Finding, Surroundings
from gateway.keyfile import new
from gateway.settings import Settings

HEALTHY = {
    "nvidia-smi": "echo 'NVIDIA GeForce RTX 4070 SUPER, 550.54.15, 12282 MiB'",
    "nvidia-ctk": "true",
    "docker": """case "$1 $2" in
        "version --format") echo 28.5.2;;
        "compose version") echo 2.40.3;;
        "info --format") echo '{"nvidia":{},"runc":{}} []';;
        *) exit 9;;
        esac""",
}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in HEALTHY.items():
        plant(folder, name, script)
    return folder


def plant(folder: Path, name: str, script: str | None) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    if script is not None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


def around(programs: Path, registry: dict[str, Any] | None = None, **settings: Any) -> Surroundings:
    file = programs.parent / "models.yaml"
    file.write_text(yaml.safe_dump(registry) if registry else Path("models/models.yaml").read_text())
    folder = programs.parent / "models"
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PATH": f"{programs}:/usr/bin:/bin"}
    environment.pop("HF_TOKEN", None)
    known = load_registry(file)
    settings.setdefault("run_dir", programs.parent / "run")
    proc = programs.parent / "proc"
    return Surroundings(
        Settings(**settings), known, folder, environment, proc if proc.exists() else Path("/proc")
    )


def by_name(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {one.check: one for one in findings}


def test_a_healthy_machine_has_nothing_to_say_about_its_containers(programs: Path) -> None:
    found = by_name(containers.checks(around(programs)))
    assert {name: one.level for name, one in found.items() if name != "nvml"} == {
        "driver": "ok",
        "docker": "ok",
        "compose": "ok",
        "toolkit": "ok",
    }
    assert "12282 MiB" in found["driver"].message


@pytest.mark.parametrize(
    ("program", "script", "check", "says"),
    [
        pytest.param(
            "nvidia-smi",
            "echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9",
            "driver",
            "could not communicate",
            id="driver not loaded",
        ),
        pytest.param(
            "docker",
            "echo 'permission denied while trying to connect to the Docker daemon socket'; exit 1",
            "docker",
            "you may not use it",
            id="not in the group",
        ),
        pytest.param(
            "docker",
            "echo 'Cannot connect to the Docker daemon. Is the docker daemon running?'; exit 1",
            "docker",
            "does not answer: Cannot connect",
            id="daemon down",
        ),
        pytest.param(
            "docker",
            'case "$1" in version) echo 28.5.2;; compose) echo v2.3.4;; info) echo {};; esac',
            "compose",
            "2.20 is needed",
            id="old compose",
        ),
        pytest.param(
            "docker",
            'case "$1" in version) echo 28.5.2;; info) echo {};; *) exit 1;; esac',
            "compose",
            "no docker compose",
            id="no compose",
        ),
        pytest.param("nvidia-ctk", None, "toolkit", "is not installed", id="no toolkit"),
        pytest.param(
            "docker",
            'case "$1" in version) echo 28.5.2;; compose) echo 2.40;; info) echo \'{"runc":{}} []\';; esac',
            "toolkit",
            "Docker does not know it",
            id="toolkit not configured",
        ),
    ],
)
def test_each_fault_of_the_containers_is_named(
    programs: Path, program: str, script: str | None, check: str, says: str
) -> None:
    plant(programs, program, script)
    found = by_name(containers.checks(around(programs)))[check]
    assert found.level == "failure"
    assert says in found.message
    assert found.hint


def test_a_program_that_is_not_there_is_no_driver(programs: Path) -> None:
    bare = Surroundings(Settings(), None, programs, {"PATH": "/nowhere"})
    assert containers.driver(bare).level == "failure"
    assert containers.docker(bare).message == "Docker is not installed."


def test_without_card_and_containers_nothing_of_them_is_asked(programs: Path) -> None:
    local = yaml.safe_load(Path("models/local.yaml").read_text())
    assert not list(containers.checks(around(programs, local)))


# ---------------------------------------------------------------- the machine


def test_a_port_that_another_program_has_is_a_failure(programs: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        found = machine.port(around(programs, port=other.getsockname()[1]))
    assert found.level == "failure"
    assert "another program has it" in found.message


@pytest.mark.parametrize(
    ("available_kb", "level"), [(500_000, "warning"), (16_000_000, "ok"), (None, "warning")]
)
def test_main_memory(programs: Path, available_kb: int | None, level: str) -> None:
    proc = programs.parent / "proc"
    proc.mkdir()
    if available_kb is not None:
        (proc / "meminfo").write_text(
            f"MemTotal: 32000000 kB\nMemAvailable: {available_kb} kB\nHugePages: 0\n"
        )
    assert machine.memory(around(programs)).level == level


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("Linux version 5.15.153.1-microsoft-standard-WSL2 (root@host)", "ok"),
        ("Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com)", "failure"),
        ("Linux version 6.1.0-13-amd64 (debian-kernel@lists.debian.org)", None),
    ],
)
def test_windows_underneath_is_told_apart(programs: Path, version: str, level: str | None) -> None:
    proc = programs.parent / "proc"
    proc.mkdir()
    (proc / "version").write_text(version)
    found = list(machine.wsl(around(programs)))
    assert [one.level for one in found] == ([level] if level else [])


# ---------------------------------------------------------------- what the registry names


def test_weights_that_are_missing_or_incomplete_are_named(programs: Path) -> None:
    surroundings = around(programs)
    found = by_name(models.weights(surroundings))
    assert found["weights qwen2"].level == "warning"
    assert "HF_TOKEN" in found["token llama3"].message

    folder = surroundings.models / "qwen2"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert by_name(models.weights(surroundings))["weights qwen2"].level == "failure"
    (folder / "model.safetensors").write_bytes(b"")
    assert by_name(models.weights(surroundings))["weights qwen2"].level == "ok"


def test_engines_are_told_apart_by_whether_they_answer(programs: Path, tmp_path: Path) -> None:
    engine = start_echo(tmp_path)
    try:
        registry = {
            "models": [
                {"id": "here", "family": "chatml", "url": engine.url},
                {"id": "away", "family": "chatml", "url": "http://user:secret@127.0.0.1:9"},
                {"id": "unknown", "family": "chatml", "url": "http://no-such-name.invalid"},
                {
                    "id": "foreign",
                    "family": "chatml",
                    "url": engine.url,
                    "supervisor": engine.url,
                },
            ]
        }
        found = by_name(models.checks(around(programs, registry)))
    finally:
        engine.stop()
    levels = {name: one.level for name, one in found.items()}
    assert levels["engine here"] == "ok"
    assert levels["engine away"] == "failure"
    assert levels["engine unknown"] == "warning"
    assert levels["supervisor foreign"] == "failure"
    assert not any("secret" in one.message for one in found.values())


def test_an_open_gateway_is_warned_of_and_a_locked_one_is_not(programs: Path) -> None:
    assert models.keys(around(programs, host="0.0.0.0")).level == "failure"
    assert models.keys(around(programs, host="0.0.0.0", allow_anonymous=True)).level == "warning"
    new(programs.parent / "run" / "keys", "laptop", ["generate"])
    assert models.keys(around(programs, host="0.0.0.0")).level == "ok"


# ---------------------------------------------------------------- the command


def test_the_command_fails_with_a_faulty_registry_and_says_so_to_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("models: [{id: a, family: nobody, url: 'http://127.0.0.1:9'}]")
    monkeypatch.setenv("GATEWAY_CONFIG", str(file))
    assert main(["doctor", "--json"]) == 1
    findings = {one["check"]: one for one in json.loads(capsys.readouterr().out)}
    assert findings["config"]["level"] == "failure"
    assert "nobody" in findings["config"]["message"]
    monkeypatch.setenv("GATEWAY_PORT", "many")
    assert main(["doctor"]) == 1
    assert "GATEWAY_PORT" in capsys.readouterr().out


def test_the_embedded_default_has_no_failures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_CONFIG", "models/local.yaml")
    monkeypatch.setenv("GATEWAY_PORT", "0")
    assert main(["doctor"]) == 0
    assert "0 failures" in capsys.readouterr().out
