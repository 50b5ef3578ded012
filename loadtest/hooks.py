"""What Locust calls at the beginning and the end, and the options that our users add to its own."""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

import gevent
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.event import Events

from loadtest.desk import CannotStart, find_desk, open_desk, write_counts
from loadtest.statsd import BadAddress
from loadtest.targets import BadTargets

logger = logging.getLogger("loadtest")
TICK_S = 1.0
CANNOT_START = 3
"""The exit status where the gateway could not be asked; 2 is that of a wrong command line."""
KEY_VARIABLE = "GATEWAY_API_KEY"


def install(events: Events) -> None:
    """Called by a locustfile, once."""
    events.init_command_line_parser.add_listener(add_options)
    events.test_start.add_listener(_begin)
    events.test_stop.add_listener(_end)
    events.init.add_listener(_initialised)


def add_options(parser: LocustArgumentParser, **_: Any) -> None:
    parser.add_argument(
        "--models",
        default="",
        env_var="LOADTEST_MODELS",
        help="who is asked, and how often: qwen2=2,llama3=1 (all that the gateway lists, alike)",
    )
    parser.add_argument(
        "--seed", type=int, default=1, env_var="LOADTEST_SEED", help="same seed, same requests (1)"
    )
    parser.add_argument(
        "--wait-s", type=float, default=2.0, env_var="LOADTEST_WAIT_S", help="pause between requests (2)"
    )
    parser.add_argument(
        "--pace-s",
        type=float,
        default=10.0,
        env_var="LOADTEST_PACE_S",
        help="seconds from one request of a SaturatingUser to its next (10)",
    )
    parser.add_argument(
        "--api-key",
        default="",
        env_var=KEY_VARIABLE,
        include_in_web_ui=False,
        help=f"better put it into {KEY_VARIABLE}: command lines can be seen by others",
    )
    parser.add_argument(
        "--records",
        default="",
        env_var="LOADTEST_RECORDS",
        include_in_web_ui=False,
        help="folder for one line of JSON per request, and for Locust's own counts",
    )
    parser.add_argument(
        "--statsd",
        default="",
        env_var="LOADTEST_STATSD",
        include_in_web_ui=False,
        help="HOST:PORT that gets the clients' figures, for the dashboard Load test",
    )


def _begin(environment: Environment, **_: Any) -> None:
    # A key from the environment stays there in workers: the master does not send it around.
    options: Any = environment.parsed_options
    options.api_key = options.api_key or os.environ.get(KEY_VARIABLE, "")
    try:
        desk = open_desk(environment)
    except (CannotStart, BadTargets, BadAddress) as error:
        logger.error("%s", error)  # noqa: TRY400  a person did something wrong: no stack trace
        _give_up(environment)
        return
    gevent.spawn(_tick_until_closed, environment)
    logger.info("Models under test: %s", ", ".join(f"{one.model} ({one.weight:g})" for one in desk.targets))


def _give_up(environment: Environment) -> None:
    """End the process, as nobody else would; with Locust's page only the run, and its log has the reason."""
    if environment.web_ui is not None and environment.runner is not None:
        gevent.spawn_later(1.0, environment.runner.stop)
        return
    environment.process_exit_code = CANNOT_START
    # The way that Locust ends by itself. Its runner's quit() does not reach a run that is just starting.
    gevent.spawn_later(0.0, os.kill, os.getpid(), signal.SIGTERM)


def _tick_until_closed(environment: Environment) -> None:
    while (desk := find_desk(environment)) is not None and not desk.closed:
        desk.tick()
        gevent.sleep(TICK_S)


def _end(environment: Environment, **_: Any) -> None:
    if (desk := find_desk(environment)) is not None:
        desk.close()


def _initialised(environment: Environment, **_: Any) -> None:
    seen: dict[tuple[str, str], list[int]] = {}

    def passed(request_type: str, name: str, exception: Exception | None = None, **_: Any) -> None:
        counts = seen.setdefault((request_type, name), [0, 0])
        counts[0] += 1
        counts[1] += exception is not None

    def quit_(**_: Any) -> None:
        """At the very end, when everybody has an answer."""
        _end(environment)
        write_counts(environment, seen)

    environment.events.request.add_listener(passed)
    environment.events.quit.add_listener(quit_)
