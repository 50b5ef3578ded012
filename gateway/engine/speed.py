"""How fast an engine is: what each pass of a batch takes. Figures are from ``speeds.toml`` or its like.

Seconds are those of the engine's own clock. A step of the batch is one pass in which every running stream
gets one token. ``docs/CALIBRATION.md`` has the model, its sources, and how far it can be trusted.
"""

from __future__ import annotations

import tomllib
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

TABLE = files("gateway.engine") / "speeds.toml"


class UnknownSpeed(ValueError):
    """There is no such preset, or its file cannot be read as one. The text is for people."""


@dataclass(frozen=True, slots=True)
class Speed:
    """``decode_s`` are (running streams, seconds per step), ascending; between them a straight line, beyond
    the last the slope of the last piece. Memory is declared, not taken."""

    load_s: float
    prefill_fixed_s: float
    prefill_s_per_token: float
    context_s_per_token: float
    """What each token behind a running stream adds to every step, as its part of the KV cache is read."""
    decode_s: tuple[tuple[int, float], ...]
    slots: int
    batch_tokens: int | None
    """Room of the KV cache: input and wanted answer of all running streams together."""
    prefill_batch_tokens: int
    """Inputs that are read in one pass."""
    memory_bytes: int
    max_input_tokens: int
    max_total_tokens: int

    def prefill(self, tokens: int) -> float:
        """Seconds to read so many tokens of input in one pass."""
        return self.prefill_fixed_s + tokens * self.prefill_s_per_token

    def decode(self, running: int, context_tokens: int) -> float:
        """Seconds of one step of ``running`` streams that have so many tokens behind them altogether."""
        return self._table(running) + context_tokens * self.context_s_per_token

    def _table(self, running: int) -> float:
        points = self.decode_s
        if len(points) == 1 or running <= points[0][0]:
            return points[0][1]
        above = min(max(1, bisect_left(points, (running, 0.0))), len(points) - 1)
        (x0, y0), (x1, y1) = points[above - 1], points[above]
        return y0 + (y1 - y0) * (running - x0) / (x1 - x0)

    def scaled(self, factor: float) -> Speed:
        """The same engine, so many times faster."""
        return replace(
            self,
            load_s=self.load_s / factor,
            prefill_fixed_s=self.prefill_fixed_s / factor,
            prefill_s_per_token=self.prefill_s_per_token / factor,
            context_s_per_token=self.context_s_per_token / factor,
            decode_s=tuple((running, step_s / factor) for running, step_s in self.decode_s),
        )


def published() -> Mapping[str, Any]:
    """The whole table, with ranges and sources, as ``speeds.toml`` has it."""
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def names() -> list[str]:
    return sorted(published()["presets"])


def speed_of(name: str) -> Speed:
    """A published preset by its name, or the one in a file that ends in ``.toml``. Raises UnknownSpeed."""
    if name.endswith(".toml"):
        return _from_file(Path(name))
    presets = published()["presets"]
    if name not in presets:
        raise UnknownSpeed(
            f"There is no speed {name!r}. Known are {', '.join(sorted(presets))}, or a .toml file."
        )
    return from_preset(presets[name])


def _from_file(path: Path) -> Speed:
    try:
        presets = tomllib.loads(path.read_text(encoding="utf-8"))["presets"]
        (preset,) = presets.values()
        return from_preset(preset)
    except OSError as error:
        raise UnknownSpeed(f"{path} cannot be read: {error.strerror}.") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnknownSpeed(
            f"{path} is no file with one preset, as python -m benchmarks.calibrate writes: {error}"
        ) from error


def from_preset(preset: Mapping[str, Any]) -> Speed:
    """Raises KeyError, TypeError or ValueError for figures that are missing or no figures."""

    def figure(name: str) -> Any:
        return preset[name]["value"]

    steps = sorted((int(running), float(step_s)) for running, step_s in figure("decode_s").items())
    if not steps:
        raise ValueError("decode_s is empty")
    batch_tokens = figure("batch_tokens") if "batch_tokens" in preset else None
    return Speed(
        load_s=float(figure("load_s")),
        prefill_fixed_s=float(figure("prefill_fixed_s")),
        prefill_s_per_token=float(figure("prefill_s_per_token")),
        context_s_per_token=float(figure("context_s_per_token")),
        decode_s=tuple(steps),
        slots=int(figure("slots")),
        batch_tokens=None if batch_tokens is None else int(batch_tokens),
        prefill_batch_tokens=int(figure("prefill_batch_tokens")),
        memory_bytes=int(figure("memory_bytes")),
        max_input_tokens=int(figure("max_input_tokens")),
        max_total_tokens=int(figure("max_total_tokens")),
    )
