#!/usr/bin/env python3
"""In the place of NVIDIA's hook: called for containers that reserve a card, before they start.

It puts the stub of the driver's library into the container, and keeps a record of what was reserved.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    if sys.argv[1:2] != ["prestart"]:
        return
    bundle = Path(json.load(sys.stdin)["bundle"])
    spec = json.loads((bundle / "config.json").read_text())
    environment = dict(one.split("=", 1) for one in spec["process"]["env"] if "=" in one)
    cards = environment.get("NVIDIA_VISIBLE_DEVICES", "void")
    with (HERE / "reserved").open("a") as record:
        record.write(f"{spec['hostname']} {cards}\n")
    if cards in ("", "void", "none"):
        return
    root = bundle / spec["root"]["path"]
    library = root / "usr/lib/x86_64-linux-gnu"
    library.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "libnvidia-ml.so.1", library / "libnvidia-ml.so.1")
    shutil.copyfile(HERE / "cards", root / "usr/lib/nvml-stub-state")


main()
