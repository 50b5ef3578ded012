"""As a program: an engine that dies at its first request, slowly, and serves when it is started once more.

    python dying_engine.py PORT FOLDER

``FOLDER`` remembers that it has died. What is slow: its connections are gone, and new ones are taken and
reset, as happens for an instant with each process that is killed. Here it lasts until the kill.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fastpath.scripted import STREAM, Scripted, Step, chunk, token, whole


def main(port: int, folder: Path) -> None:
    died = folder / "died"
    script: Sequence[Step] = [whole()] if died.exists() else [STREAM, chunk(token(1)), "DIE"]
    died.touch()
    Scripted([script], port=port)
    threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
