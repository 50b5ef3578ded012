#!/usr/bin/env python3
"""Takes the options of TGI's launcher, refuses what that would refuse, and runs an echo engine with them."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="text-generation-launcher", allow_abbrev=False)
    parser.add_argument("--model-id", required=True)
    parser.add_argument("--port", required=True)
    parser.add_argument("--num-shard", type=int, required=True)
    parser.add_argument("--max-input-tokens", type=int, required=True)
    parser.add_argument("--max-total-tokens", type=int, required=True)
    parser.add_argument("--max-batch-prefill-tokens", type=int, required=True)
    parser.add_argument("--cuda-memory-fraction", type=float, required=True)
    parser.add_argument("--usage-stats", choices=("on", "off", "no-stack"), required=True)
    given = parser.parse_args()
    if given.max_input_tokens >= given.max_total_tokens:
        parser.error("`max_input_tokens` must be < `max_total_tokens`")
    folder = Path(given.model_id)
    if not (folder / "config.json").is_file():
        parser.error(f"no config.json in {folder}")
    card = os.environ.get("NVIDIA_VISIBLE_DEVICES", "none")
    print(f"INFO text_generation_launcher: Args {sys.argv[1:]} on card {card}", flush=True)
    print("INFO text_generation_launcher: Starting shard rank=0", flush=True)
    options = ["--backend=echo", "--host=0.0.0.0", f"--port={given.port}", f"--model-id={given.model_id}"]
    options += [
        f"--max-input-tokens={given.max_input_tokens}",
        f"--max-total-tokens={given.max_total_tokens}",
    ]
    # What a test wants of the engine lies beside its weights: the compose file has no place for it.
    wanted = folder / "stand-in-options"
    options += wanted.read_text().split() if wanted.exists() else ["--load-s=1"]
    os.execv(sys.executable, [sys.executable, "-m", "gateway.engine", *options])  # noqa: S606


main()
