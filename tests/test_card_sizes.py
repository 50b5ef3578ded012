"""Cards that nobody declared: the driver (here a stub) tells their size, or the start fails with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SIZES = """
import asyncio, sys
from gateway.cli import load_registry
from gateway.readers import with_card_sizes
from pathlib import Path
found = asyncio.run(with_card_sizes(load_registry(Path(sys.argv[1]))))
print([int(one.memory) >> 20 for one in found.devices])
"""


@pytest.fixture
def environment(stub_library: Path, tmp_path: Path) -> dict[str, str]:
    pytest.importorskip("pynvml", reason="needs nvidia-ml-py (extra gpu)")
    state = tmp_path / "state"
    state.write_text("gpu 12282 700\ngpu 24564 0\n")
    return {**os.environ, "LD_LIBRARY_PATH": str(stub_library.parent), "NVML_STUB_STATE": str(state)}


def registry(tmp_path: Path) -> Path:
    path = tmp_path / "models.yaml"
    devices = [{"id": f"gpu{at}", "reader": "nvml", "index": at} for at in range(2)]
    models = [{"id": "a", "family": "chatml", "url": "http://127.0.0.1:9"}]
    path.write_text(yaml.safe_dump({"devices": devices, "models": models}))
    return path


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_stub_cards_give_undeclared_devices_their_size(environment: dict[str, str], tmp_path: Path) -> None:
    assert run(environment, "-c", SIZES, str(registry(tmp_path))).stdout == "[12282, 24564]\n"


def test_stub_cards_are_those_that_a_plan_is_made_for(environment: dict[str, str]) -> None:
    done = run(environment, "-m", "gateway", "plan", "--config", "models/models.yaml")
    assert done.stdout.count("Card of ") == 2
    assert "Card of 24.0 GiB" in done.stdout


def test_without_a_driver_an_undeclared_card_stops_the_start_with_a_reason(tmp_path: Path) -> None:
    environment = {**os.environ, "GATEWAY_CONFIG": str(registry(tmp_path)), "GATEWAY_RUN_DIR": str(tmp_path)}
    done = run(environment, "-m", "gateway", "serve")
    assert done.returncode == 1
    assert "The memory of device gpu0 is not declared" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_a_card_may_leave_its_memory_out(tmp_path: Path) -> None:
    path = registry(tmp_path)
    path.write_text(path.read_text().replace("nvml", "none"))
    done = run(dict(os.environ), "-m", "gateway", "check-config", str(path))
    assert "devices[0].memory: is required unless the reader is nvml" in done.stderr
