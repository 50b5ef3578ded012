"""The command line of ``python -m loadtest``."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from pathlib import Path

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
EPILOG = """examples:
  python -m loadtest                                  the run of 3 minutes, calibrated engines, and its report
  python -m loadtest --quick                          two minutes in all, to see that everything works
  python -m loadtest --saturation                     also: a ramp, and twice the load that saturates
  python -m loadtest --soak 60m                       an hour, and whether memory and sockets stay flat
  python -m loadtest --engine small --users 4         the real small models of models/local.yaml
  python -m loadtest --url http://10.0.0.5:8000       a gateway that runs; its key in GATEWAY_API_KEY
  python -m loadtest --compare GATEWAY_TRANSPORT=fast GATEWAY_TRANSPORT=httpx
  python -m loadtest --render .run/loadtest/NAME      the report once more, from what was kept
"""


def duration(text: str) -> float:
    """``90``, ``90s``, ``3m``, ``1h`` or ``1h30m`` → seconds."""
    if not re.fullmatch(r"(\d+(\.\d+)?[smh]?)+", text):
        raise ArgumentTypeError(f"{text!r} is no duration; write 90s, 3m or 1h30m")
    seconds = sum(float(n) * _UNITS[u] for n, u in re.findall(r"(\d+(?:\.\d+)?)([smh]?)", text))
    if seconds <= 0:
        raise ArgumentTypeError("a duration is longer than nothing")
    return float(seconds)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def parser() -> ArgumentParser:
    arguments = ArgumentParser(
        prog="python -m loadtest",
        description="Simulated users against the gateway, with a report.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    _add_what(arguments)
    _add_how(arguments)
    _add_out(arguments)
    return arguments


def _add_what(arguments: ArgumentParser) -> None:
    group = arguments.add_argument_group("what is under test")
    group.add_argument(
        "--engine",
        choices=("calibrated", "small"),
        default="calibrated",
        help="calibrated: as fast as two models on a 12 GB card; small: the real ones of models/local.yaml",
    )
    group.add_argument("--url", default="", help="a gateway that runs; nothing is started")
    group.add_argument("--port", type=int, default=0, help="of the gateway that is started (a free one)")
    group.add_argument(
        "--models", default="", help="who is asked, and how often: qwen2=2,llama3=1 (all, alike)"
    )
    group.add_argument(
        "--speed-scale", type=float, default=1.0, help="calibrated engines so many times as fast"
    )


def _add_how(arguments: ArgumentParser) -> None:
    group = arguments.add_argument_group("how")
    group.add_argument("--users", type=_count, help="(100; with --engine small 4)")
    group.add_argument("--wait-s", type=float, default=2.0, help="pause of a user between requests (2)")
    group.add_argument("--duration", type=duration, default=180.0, help="of the run with all users (3m)")
    group.add_argument(
        "--alone", type=duration, default=45.0, help="then of each model alone, without switches (45s)"
    )
    group.add_argument("--no-alone", action="store_true", help="leave that out")
    group.add_argument(
        "--saturation", action="store_true", help="also: a ramp, and twice the load at its knee"
    )
    group.add_argument("--step", type=duration, default=12.0, help="of the ramp (12s)")
    group.add_argument("--steps", type=_count, default=20, help="of the ramp, at most (20)")
    group.add_argument("--step-users", type=_count, default=30, help="more users with each step (30)")
    group.add_argument(
        "--max-queue", type=_count, default=32, help="limits.max_queue of the models in the ramp (32)"
    )
    group.add_argument("--soak", type=duration, metavar="TIME", help="one long run, with a report of its own")
    group.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two models, NAME=VALUE, or commits")
    group.add_argument("--rounds", type=_count, default=12, help="of a comparison: pairs A B, B A, … (12)")
    group.add_argument("--round", type=duration, default=10.0, help="one side of one round (10s)")
    group.add_argument(
        "--quick", action="store_true", help="all parts short, calibrated engines four times as fast"
    )
    group.add_argument("--seed", type=int, default=1, help="same seed, same requests (1)")
    group.add_argument("--sample-s", type=float, default=1.0, help="between looks at what runs (1)")
    group.add_argument("--processes", type=_count, default=1, help="Locust's, where one is the limit (1)")
    group.add_argument("--statsd", default="", help="HOST:PORT for the clients' and the gateway's figures")


def _add_out(arguments: ArgumentParser) -> None:
    group = arguments.add_argument_group("what comes of it")
    group.add_argument(
        "--run-dir", type=Path, default=Path(".run/loadtest"), help="raw results (.run/loadtest)"
    )
    group.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the report (docs)")
    group.add_argument("--no-report", action="store_true", help="keep the results, write no report")
    group.add_argument("--render", type=Path, metavar="FOLDER", help="write the report of an earlier run")
