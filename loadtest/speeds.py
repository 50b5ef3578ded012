"""The command lines of the stand-ins: echo engines with the speed of a model on a 12 GB card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

CALIBRATED: Final[Mapping[str, str]] = {"qwen2": "qwen2-7b-gptq-int4", "llama3": "llama-3.1-8b-gptq-int4"}
"""Models of ``models/models.yaml``, and the presets of their speeds (docs/CALIBRATION.md)."""


def calibrated(model: str, scale: float, *, load: bool = True) -> list[str]:
    """The options of an echo engine that stands in for a model. ``scale`` is how many times as fast it is;
    without ``load`` it is there at once."""
    options = ["--speed", CALIBRATED[model], "--speed-scale", f"{scale:g}"]
    return options if load else [*options, "--load-s", "0"]
