"""``python -m benchmarks.calibrate URL``: how fast a running engine on TGI's wire is, as a preset."""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path

import httpx

from benchmarks.calibrate.client import EngineClient
from benchmarks.calibrate.measure import Plan, measure
from benchmarks.calibrate.preset import Told, toml

TIMEOUT_S = 120.0


def parser() -> ArgumentParser:
    arguments = ArgumentParser(prog="python -m benchmarks.calibrate", description=__doc__)
    arguments.add_argument(
        "url", help="of an engine that nobody else uses now, such as http://127.0.0.1:8080"
    )
    arguments.add_argument("--name", default="measured", help="of the preset")
    arguments.add_argument("--title", help="(the engine's model and address)")
    arguments.add_argument("--batches", type=_numbers, default=[1, 2, 4, 8, 16, 32])
    arguments.add_argument("--inputs", type=_numbers, default=[64, 256, 512, 1024, 2048], help="tokens")
    arguments.add_argument("--new-tokens", type=int, default=64, help="of each stream")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument(
        "--load-s", type=float, help="how long it takes to load; cannot be seen from outside"
    )
    arguments.add_argument("--slots", type=int, help="streams at a time (the largest batch that was seen)")
    arguments.add_argument("--batch-tokens", type=int, help="room of its KV cache")
    arguments.add_argument("--memory-bytes", type=int)
    arguments.add_argument("--out", type=Path, help="(standard output)")
    return arguments


def _numbers(text: str) -> list[int]:
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 1:
        raise ArgumentTypeError(f"{text!r}: positive numbers with commas between them")
    return numbers


async def run(options: Namespace) -> str:
    """The preset. Raises httpx.HTTPError, ValueError."""
    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False, limits=httpx.Limits()) as http:
        engine = EngineClient(http, options.url)
        info = await engine.info()
        longest, total = int(info["max_input_tokens"]), int(info["max_total_tokens"])
        room = min(longest, total - options.new_tokens)
        inputs = [tokens for tokens in options.inputs if tokens <= room * 3 // 4]  # its tokens may be shorter
        if len(inputs) < 2:
            raise ValueError(f"inputs of two lengths below {room} tokens are needed: --inputs")
        plan = Plan(options.batches, inputs, new_tokens=options.new_tokens, repeats=options.repeats)
        measured = await measure(engine.ask, plan, lambda line: print(line, file=sys.stderr))
    told = Told(options.load_s, options.slots, options.batch_tokens, options.memory_bytes, longest, total)
    return toml(options.name, options.title or f"{info['model_id']} at {options.url}", measured, told)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        text = asyncio.run(run(options))
    except (httpx.HTTPError, ValueError, KeyError) as error:
        print(f"calibrate: {options.url}: {error or type(error).__name__}", file=sys.stderr)
        return 1
    if options.out is None:
        print(text, end="")
    else:
        options.out.write_text(text, encoding="utf-8")
        print(f"wrote {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
