"""The gateway's application behind uvicorn as it is: what any other way to the same routes is compared with.

``python tests/server_wire/ordinary.py PORT``; the rest comes from the environment, as for ``gateway serve``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

sys.path.insert(0, str(Path(__file__).parents[2]))

from gateway.cli import load_registry
from gateway.logs import configure_logging
from gateway.main import create_app
from gateway.settings import Settings


def main() -> None:
    settings = Settings()
    configure_logging(settings.log_level, settings.log_format)
    uvicorn.run(
        create_app(settings, load_registry(settings.config)),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
    )


if __name__ == "__main__":
    main()
