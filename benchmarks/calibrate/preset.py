"""A preset as a file that ``python -m gateway.engine --backend echo --speed FILE`` reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.calibrate.measure import Measured


@dataclass(frozen=True, slots=True)
class Told:
    """What cannot be seen from outside, as given on the command line; None: not given."""

    load_s: float | None
    slots: int | None
    batch_tokens: int | None
    memory_bytes: int | None
    max_input_tokens: int
    max_total_tokens: int


def toml(name: str, title: str, measured: Measured, told: Told) -> str:
    return "\n".join(_lines(name, title, measured, told)) + "\n"


def _lines(name: str, title: str, measured: Measured, told: Told) -> Iterator[str]:
    key = json.dumps(name, ensure_ascii=False)
    yield f"[presets.{key}]"
    yield f"title = {json.dumps(title, ensure_ascii=False)}"
    steps = ", ".join(f"{running} = {step_s:.6g}" for running, step_s in measured.decode_s.items())
    rows: list[tuple[str, str, str, str]] = [
        ("load_s", f"{told.load_s or 0:.6g}", "s", _given(told.load_s)),
        ("prefill_fixed_s", f"{measured.prefill_fixed_s:.6g}", "s", "measured"),
        ("prefill_s_per_token", f"{measured.prefill_s_per_token:.6g}", "s per token", "measured"),
        (
            "context_s_per_token",
            f"{measured.context_s_per_token:.6g}",
            "s per token of context and step",
            "measured",
        ),
        ("decode_s", f"{{ {steps} }}", "s per step, by running streams", "measured"),
        ("slots", str(told.slots or measured.together), "streams", _given(told.slots)),
        ("prefill_batch_tokens", "4096", "tokens", "assumed"),
        ("memory_bytes", str(told.memory_bytes or 0), "bytes", _given(told.memory_bytes)),
        ("max_input_tokens", str(told.max_input_tokens), "tokens", "measured"),
        ("max_total_tokens", str(told.max_total_tokens), "tokens", "measured"),
    ]
    if told.batch_tokens is not None:
        rows.append(("batch_tokens", str(told.batch_tokens), "tokens", "given"))
    for figure, value, unit, kind in rows:
        yield from (
            "",
            f"[presets.{key}.{figure}]",
            f"value = {value}",
            f'unit = "{unit}"',
            f'kind = "{kind}"',
        )


def _given(value: float | None) -> str:
    return "assumed" if value is None else "given"
