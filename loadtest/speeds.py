"""The command lines of the stand-ins: echo engines with the speed of a model on a 12 GB card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.engine.__main__ import parser

CALIBRATED: Final[Mapping[str, str]] = {"qwen2": "qwen2-7b-gptq-int4", "llama3": "llama-3.1-8b-gptq-int4"}
"""Models of ``models/models.yaml``, and what the engine calls their speeds."""


@dataclass(frozen=True, slots=True)
class Assumed:
    """What docs/SWITCHING.md assumes of one model: seconds to load, tokens/s of a prompt and of one answer
    in a batch of 32 (62 % of 76 and 72 tokens/s)."""

    load_s: float
    prefill_tokens_per_s: float
    tokens_per_s: float


_ASSUMED: Final[Mapping[str, Assumed]] = {"qwen2": Assumed(31, 3000, 47), "llama3": Assumed(32, 2800, 44.6)}


def calibrated(model: str, scale: float, *, load: bool = True) -> list[str]:
    """The options of an echo engine that stands in for a model. ``scale`` is how many times as fast it is;
    without ``load`` it is there at once."""
    if knows_speeds():
        options = ["--speed", CALIBRATED[model], "--speed-scale", f"{scale:g}"]
        return options if load else [*options, "--load-s", "0"]
    one = _ASSUMED[model]
    figures = {
        "--load-s": one.load_s / scale if load else 0.0,
        "--prefill-tokens-per-s": one.prefill_tokens_per_s * scale,
        "--tokens-per-s": one.tokens_per_s * scale,
    }
    return [text for name, value in figures.items() for text in (name, f"{value:g}")]


def knows_speeds() -> bool:
    """Whether the engine has calibrated speeds of its own."""
    return any("--speed" in action.option_strings for action in parser()._actions)  # noqa: SLF001
