"""A ramp that finds saturation. ``locust -f loadtest/saturation.py --host http://127.0.0.1:8000 --headless``

A file of its own: where a locustfile has a shape, Locust follows it and no other number of users.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from locust import LoadTestShape, events
from locust.argument_parser import LocustArgumentParser

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadtest.hooks import install
from loadtest.users.saturating import SaturatingUser

__all__ = ["Ramp", "SaturatingUser"]


class Ramp(LoadTestShape):
    """``--steps`` times ``--step-users`` more users, each number for ``--step-s`` seconds."""

    def tick(self) -> tuple[int, float] | None:
        options: Any = self.runner.environment.parsed_options if self.runner else None
        if options is None:
            return None
        step = int(self.get_run_time() // options.step_s) + 1  # type: ignore[no-untyped-call]
        if step > options.steps:
            return None
        users = min(step * options.step_users, options.steps * options.step_users)
        return users, float(options.step_users)


def _add_options(parser: LocustArgumentParser, **_: Any) -> None:
    parser.add_argument("--steps", type=int, default=12, env_var="LOADTEST_STEPS", help="(12)")
    parser.add_argument("--step-users", type=int, default=20, env_var="LOADTEST_STEP_USERS", help="(20)")
    parser.add_argument("--step-s", type=float, default=10.0, env_var="LOADTEST_STEP_S", help="seconds (10)")


install(events)
events.init_command_line_parser.add_listener(_add_options)
