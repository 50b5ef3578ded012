"""NVIDIA cards through the driver's library: a stand-in for it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from documents import REPOSITORY

SAID = """
import json
from loadtest.cards import Cards
cards = Cards()
print(json.dumps([cards.read(), cards.read()]))
cards.close()
"""


def read(state: Path, library: Path | None) -> list[list[dict[str, float]]]:
    env = {
        **os.environ,
        "NVML_STUB_STATE": str(state),
        "LD_LIBRARY_PATH": str(library.parent) if library else "",
    }
    done = subprocess.run(
        [sys.executable, "-c", SAID], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=True
    )
    found: list[list[dict[str, float]]] = json.loads(done.stdout)
    return found


def test_what_cards_can_say_is_read_and_the_rest_left_out(tmp_path: Path, stub_library: Path) -> None:
    pytest.importorskip("pynvml", reason="needs nvidia-ml-py (extra gpu)")
    state = tmp_path / "cards"
    state.write_text(
        "gpu 12282 11000\ngpu 24576 100\nset 0 utilisation 87\nset 0 power 190500\nset 0 temperature 71\n"
    )
    first, again = read(state, stub_library)
    assert first == again
    assert first[0] == {
        "utilisation_percent": 87,
        "used": 11000 * 2**20,
        "watts": 190.5,
        "celsius": 71,
    }
    assert first[1] == {"used": 100 * 2**20}


def test_a_machine_without_cards_is_one_without_cards(tmp_path: Path) -> None:
    assert read(tmp_path / "nothing", None) == [[], []]
