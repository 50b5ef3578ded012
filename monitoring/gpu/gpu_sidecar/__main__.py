"""``python -m gpu_sidecar``: until it is told to stop; ``--once`` prints what would be sent."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final

from gpu_sidecar.driver import StaleLibrary
from gpu_sidecar.exposition import Exposition
from gpu_sidecar.settings import VARIABLES, Settings, WrongSettings, read_settings
from gpu_sidecar.sidecar import Sidecar
from gpu_sidecar.statsd import Lines

log = logging.getLogger("gpu_sidecar")

WRONG_SETTINGS: Final = 2
CANNOT_LISTEN: Final = 1
START_ME_AGAIN: Final = 75
"""The driver was exchanged while its old library is loaded: only a new process gets the new one."""


def parser() -> argparse.ArgumentParser:
    variables = "\n".join(f"  {variable.name:<26} {variable.help}" for variable in VARIABLES)
    made = argparse.ArgumentParser(
        prog="python -m gpu_sidecar",
        description="Reads NVIDIA cards and sends what they do as StatsD lines.",
        epilog=f"Settings come from the environment:\n{variables}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--once", action="store_true", help="print what would be sent after two readings, and end"
    )
    return made


def once(settings: Settings) -> int:
    """Two readings an interval apart: energy needs both. 0 when there was a card."""
    sidecar, lines = Sidecar(settings, threading.Event()), Lines()
    lines.of(sidecar.round())
    time.sleep(settings.interval_s)
    samples = sidecar.round()
    sys.stdout.write("\n".join(lines.of(samples)) + "\n")
    return 0 if any(sample.name == "gpu_up" and sample.value for sample in samples) else 1


def serve(settings: Settings) -> int:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log.info("sending to %s:%d every %g s", settings.statsd_host, settings.statsd_port, settings.interval_s)
    try:
        exposition = _exposition(settings)
    except OSError as error:
        where = f"{settings.prometheus_host}:{settings.prometheus_port}"
        sys.stderr.write(
            f"SIDECAR_PROMETHEUS_PORT: nothing can listen on {where}: {error.strerror or error}.\n"
        )
        return CANNOT_LISTEN
    try:
        Sidecar(settings, stop).run(exposition)
    finally:
        if exposition is not None:
            exposition.close()
    log.info("stopped")
    return 0


def _exposition(settings: Settings) -> Exposition | None:
    if settings.prometheus_port is None:
        return None
    return Exposition(settings.prometheus_host, settings.prometheus_port)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    options = parser().parse_args(arguments)
    try:
        settings = read_settings(os.environ)
    except WrongSettings as error:
        sys.stderr.write(f"{error}\n")
        return WRONG_SETTINGS
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S"
    )
    try:
        return once(settings) if options.once else serve(settings)
    except StaleLibrary:
        log.critical(
            "the driver was exchanged and its old library stays loaded here: start this program again"
        )
        return START_ME_AGAIN


if __name__ == "__main__":
    sys.exit(main())
