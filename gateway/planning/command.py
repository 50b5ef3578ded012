"""``python -m gateway plan``: which models fit on which card, and which limits to set."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ByteSize, TypeAdapter, ValidationError

from gateway.config import ModelSpec, Registry
from gateway.planning.architecture import NotDescribed
from gateway.planning.cards import Card, cards_for
from gateway.planning.fit import CONTEXT_BYTES, CardPlan, Need, Place, plan_card
from gateway.planning.sources import Source, source_of

DEFAULT_REQUEST_TOKENS = 4096
CACHE_BYTES = {"fp16": 2, "fp8": 1}


def size(text: str) -> int:
    """``12GiB`` in bytes. Raises argparse.ArgumentTypeError."""
    try:
        found = TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        found = ByteSize(0)
    if found <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write one such as 12GiB or 12282MiB")
    return int(found)


def _tokens(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of tokens; write one such as 4096")
    return int(text)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help="the registry file; GATEWAY_CONFIG if not given")
    parser.add_argument(
        "--gpu", type=size, action="append", default=[], help="a card's memory, such as 12GiB; repeatable"
    )
    parser.add_argument(
        "--models-dir", type=Path, default=Path("models"), help="where the models' folders are"
    )
    parser.add_argument(
        "--prefill-tokens", type=_tokens, default=4096, help="--max-batch-prefill-tokens of the engines"
    )
    parser.add_argument("--kv-cache", choices=[*CACHE_BYTES], default="fp16", help="numbers in the KV cache")
    parser.add_argument("--json", action="store_true", help="for machines")


@dataclass(frozen=True, slots=True)
class Planned:
    """One model with its figures, or the reason why there are none."""

    spec: ModelSpec
    source: Source | None
    need: Need | None
    trouble: str | None = None


def run(options: argparse.Namespace, registry: Registry) -> str:
    """The whole answer as text. Blocks while files are read."""
    models = [_planned(spec, options) for spec in registry.models]
    cards = cards_for(options.gpu, registry)
    needs = [model.need for model in models if model.need is not None]
    plans = [(card, plan_card(card.total_bytes, needs)) for card in cards]
    if options.json:
        return json.dumps(_as_json(models, plans), indent=2)
    return "\n".join(_text(models, plans, options))


def _planned(spec: ModelSpec, options: argparse.Namespace) -> Planned:
    try:
        source = source_of(spec, options.models_dir)
    except NotDescribed as error:
        return Planned(spec, None, None, str(error))
    if source is None:
        folder = options.models_dir / spec.id
        return Planned(spec, None, None, f"nothing is known of its shape: put its files into {folder}")
    shape = source.architecture
    limit = spec.limits.max_total_tokens or min(DEFAULT_REQUEST_TOKENS, shape.max_positions)
    need = Need(
        model=spec.id,
        weights_bytes=source.weights_bytes,
        activation_bytes=shape.activation_bytes(options.prefill_tokens),
        kv_bytes_per_token=shape.kv_bytes_per_token(CACHE_BYTES[options.kv_cache]),
        max_positions=shape.max_positions,
        largest_request_tokens=limit,
    )
    return Planned(spec, source, need)


# ---------------------------------------------------------------- for people


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _text(
    models: Sequence[Planned], plans: Sequence[tuple[Card, CardPlan]], options: argparse.Namespace
) -> Iterator[str]:
    yield "Models"
    for model in models:
        yield from _model(model)
    for card, plan in plans:
        yield ""
        yield f"Card of {card.total_bytes / 2**30:.1f} GiB ({card.origin})"
        yield from _declared(models, card)
        for place in plan.alone:
            yield f"  {place.model} alone: {_place(place)}"
        if len(plan.alone) > 1:
            yield from _together(plan)
        if plan.alone:
            yield from _limits(plan, options)
    if not plans:
        yield "\nNo card to plan for: give one, such as --gpu 12GiB, or add `devices` to the registry."
    yield ""
    context = f"{_gb(CONTEXT_BYTES)} per CUDA context"
    yield f"Weights and cache are computed; activations and {context} are estimates."


def _model(model: Planned) -> Iterator[str]:
    yield f"  {model.spec.id} ({model.spec.title})"
    if model.need is None or model.source is None:
        declared = f"; the registry declares {_gb(int(model.spec.memory))}" if model.spec.memory else ""
        yield f"    {model.trouble}{declared}"
        return
    need = model.need
    weights = f"{_gb(need.weights_bytes)} ({need.weights_bytes / 2**30:.2f} GiB)"
    yield f"    weights on the card   {weights}, from {model.source.origin}"
    yield f"    KV cache per token    {need.kv_bytes_per_token:,} bytes"
    yield f"    largest prefill       {_gb(need.activation_bytes)} (estimate)"


def _declared(models: Sequence[Planned], card: Card) -> Iterator[str]:
    """Models whose shape nobody knows: there is only what the registry says of them."""
    sizes = {
        model.spec.id: int(model.spec.memory)
        for model in models
        if model.need is None and model.spec.memory is not None
    }
    if not sizes:
        return
    for name, needs in sizes.items():
        yield f"  {name} alone: {'fits' if needs <= card.total_bytes else 'does not fit'}, as declared"
    if len(sizes) > 1:
        total = sum(sizes.values())
        answer = "yes" if total <= card.total_bytes else "no"
        yield f"  {' and '.join(sizes)} together: {answer}, {_gb(total)} as declared"


def _place(place: Place) -> str:
    if place.cache_bytes <= 0:
        return f"does not fit, {_gb(-place.cache_bytes)} are missing before a single token is cached"
    cache = f"{_gb(place.cache_bytes)} of KV cache, {place.cache_tokens:,} tokens"
    if not place.fits:
        return f"too little: {cache}, less than its largest request"
    return f"{cache}: {place.requests_at_once} requests of {place.max_total_tokens:,} tokens at once"


def _together(plan: CardPlan) -> Iterator[str]:
    if not plan.co_resident:
        lack = (
            f"{_gb(-plan.spare_bytes)} are missing" if plan.spare_bytes <= 0 else "too little cache is left"
        )
        yield f"  all together: no, {lack}. One at a time: the gateway switches them."
        return
    yield f"  all together: yes, {_gb(plan.spare_bytes)} of cache to share"
    for place in plan.together:
        yield f"    {place.model}: {_place(place)}"


def _limits(plan: CardPlan, options: argparse.Namespace) -> Iterator[str]:
    places = plan.together if plan.co_resident else tuple(place for place in plan.alone if place.fits)
    if not places:
        yield "  nothing fits here: a smaller model, a shorter --prefill-tokens or a larger card"
        return
    yield "  to set:"
    for place in places:
        arguments = f"--max-input-tokens {place.max_total_tokens // 2}"
        arguments += f" --max-total-tokens {place.max_total_tokens}"
        arguments += f" --max-batch-prefill-tokens {options.prefill_tokens}"
        if plan.co_resident:
            arguments += f" --cuda-memory-fraction {place.memory_fraction:.2f}"
        yield f"    {place.model}: {arguments}"
        yield f"      in the registry: memory: {_mib(place.footprint_bytes)}"
    if plan.co_resident:
        yield "    start them in this order: each fraction covers what the ones before it hold"


def _mib(count: int) -> str:
    return f"{-(-count // 2**20)}MiB"


# ---------------------------------------------------------------- for machines


def _as_json(models: Sequence[Planned], plans: Sequence[tuple[Card, CardPlan]]) -> dict[str, Any]:
    return {
        "models": [
            {
                "id": model.spec.id,
                "origin": model.source.origin if model.source else None,
                "problem": model.trouble,
                **({} if model.need is None else asdict(model.need)),
            }
            for model in models
        ],
        "cards": [
            {"origin": card.origin, **asdict(plan), "co_resident": plan.co_resident} for card, plan in plans
        ],
    }
