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
from loadtest.knee import saturated
from loadtest.users.saturating import SaturatingUser

__all__ = ["Ramp", "SaturatingUser"]


class Ramp(LoadTestShape):
    """``--step-users`` more users every ``--step-s`` seconds, up to ``--steps`` times. It ends earlier once
    three steps in a row have brought no more answers than the best one before them, give or take 3 %."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._answers = [0]

    def tick(self) -> tuple[int, float] | None:
        if self.runner is None:
            return None
        options: Any = self.runner.environment.parsed_options
        passed: float = self.get_run_time()  # type: ignore[no-untyped-call]
        step = int(passed // options.step_s) + 1
        total = self.runner.stats.total
        while len(self._answers) < step:
            self._answers.append(total.num_requests - total.num_failures)
        if step > options.steps or saturated(self._answers):
            return None
        return step * options.step_users, float(options.step_users)


def _add_options(parser: LocustArgumentParser, **_: Any) -> None:
    parser.add_argument("--steps", type=int, default=20, env_var="LOADTEST_STEPS", help="at most (20)")
    parser.add_argument(
        "--step-users", type=int, default=30, env_var="LOADTEST_STEP_USERS", help="more with each step (30)"
    )
    parser.add_argument(
        "--step-s", type=float, default=12.0, env_var="LOADTEST_STEP_S", help="seconds of a step (12)"
    )


install(events)
events.init_command_line_parser.add_listener(_add_options)
