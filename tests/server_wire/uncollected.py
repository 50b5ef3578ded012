"""``gateway serve`` without Python's collector. On SIGUSR2 it says how many connections of clients there are.

``python tests/server_wire/uncollected.py``; everything else comes from the environment.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from gateway.cli import main
from gateway.connections import Connection


def say(*_: object) -> None:
    kept = sum(isinstance(one, Connection) for one in gc.get_objects())
    os.write(2, f"connections kept: {kept}\n".encode())


if __name__ == "__main__":
    gc.disable()
    signal.signal(signal.SIGUSR2, say)
    sys.exit(main(["serve"]))
