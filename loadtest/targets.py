"""Which models are asked, and how often: from ``qwen2=2,llama3=1`` and the gateway's own list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loadtest.prompts import Target


class BadTargets(Exception):
    """Models that cannot be asked for. The text says which and what there is."""


def parse_weights(text: str) -> dict[str, float]:
    """``qwen2=2,llama3`` → weights by model, 1 where none is said. Raises BadTargets."""
    weights: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        model, given, number = part.partition("=")
        try:
            weight = float(number) if given else 1.0
        except ValueError:
            weight = 0.0
        if not model or weight <= 0:
            raise BadTargets(f"--models takes MODEL or MODEL=WEIGHT with commas between, not {part!r}.")
        weights[model] = weight
    return weights


def listed(body: Any, weights: Mapping[str, float]) -> list[Target]:
    """The models of ``GET /v1/models`` that were asked for, or all. Raises BadTargets."""
    rows = {row["id"]: row for row in body["data"] if isinstance(row, dict) and "id" in row}
    aliases = set(body.get("aliases", ()))
    if not weights:
        # Splits stand in the list, too; who asks for nothing special asks for models.
        weights = {name: 1.0 for name, row in rows.items() if "state" in row}
    unknown = [name for name in weights if name not in rows and name not in aliases]
    if unknown or not weights:
        raise BadTargets(f"The gateway has no model {', '.join(unknown)}; it has: {', '.join(rows)}.")
    return [
        Target(name, weight, tuple(rows.get(name, {}).get("languages") or ()))
        for name, weight in weights.items()
    ]
