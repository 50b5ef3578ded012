"""``gateway serve`` that says of each request, by its id, whether it took the fast path.

``python tests/server_wire/telling.py``; the rest comes from the environment, as for ``gateway serve``.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from gateway import cli, main
from gateway.fastpath.entry import FastPath
from gateway.fastpath.heads import Known
from gateway.fastpath.passage import Client, Passage


class Telling(FastPath):
    """Says what it takes."""

    def take(self, client: Client, known: Known, body: bytes) -> Passage | None:
        passage = super().take(client, known, body)
        if passage is not None:
            print(f"fast: {known.request_id}", flush=True)
        return passage


if __name__ == "__main__":
    main.FastPath = Telling  # type: ignore[misc]
    sys.exit(cli.main(["serve"]))
