"""Starts a supervisor as a child of the gateway, around the command of one model.

The pipe to the child's stdin is its lifeline: when the gateway ends, however it ends, the supervisor sees the
end of its stdin, stops the engine and goes.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from gateway import supervisor
from gateway.errors import ModelUnavailable
from gateway.supervisor import LIFELINE_GRACE_S, PRIVATE, TOKEN_ENV

_ANNOUNCE_S = 30.0  # a Python that starts on a machine that swaps
_MARGIN_S = 15.0  # beyond the grace: for killed processes to give their memory back


@dataclass(frozen=True, slots=True)
class SupervisorChild:
    """A running supervisor; whoever holds it must ``stop`` it."""

    name: str
    url: str
    token: str
    grace_s: float
    process: asyncio.subprocess.Process

    def __repr__(self) -> str:
        return f"SupervisorChild({self.name!r}, {self.url!r}, pid={self.pid})"

    @property
    def pid(self) -> int:
        return self.process.pid

    async def wait(self) -> int:
        """Waits for its end, wanted or not; the exit code, negative for a signal."""
        return await self.process.wait()

    async def stop(self) -> int:
        """Ends engine and supervisor in order, killing what takes too long; the exit code.

        At most 10 s (the grace of a cut lifeline) and a margin; repeated calls join the first.
        """
        if self.process.stdin:
            self.process.stdin.close()
        try:
            return await asyncio.wait_for(
                self.process.wait(), min(self.grace_s, LIFELINE_GRACE_S) + _MARGIN_S
            )
        except TimeoutError:
            return await _kill(self.process)


async def spawn(
    command: Sequence[str],
    *,
    name: str,
    env: Mapping[str, str] | None = None,
    grace_s: float = 100.0,
    log_path: Path | None = None,
) -> SupervisorChild:
    """Starts a supervisor on a free loopback port; its engine stays stopped until it is asked for.

    ``env`` is the whole environment of the engine (None: the gateway's own), of which it does not get
    ``GATEWAY_*``. ``log_path`` is appended to (None: the gateway's stderr). Raises ModelUnavailable when
    no supervisor came up.
    """
    token = secrets.token_urlsafe(32)
    given = os.environ if env is None else env
    inherited = {name: value for name, value in given.items() if not name.startswith(PRIVATE)}
    arguments = ["--listen", "127.0.0.1:0", "--grace-s", str(grace_s), "--announce", "--exit-on-stdin-eof"]
    try:
        with nullcontext() if log_path is None else log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, supervisor.__file__, *arguments, "--", *command),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**inherited, TOKEN_ENV: token},
                # Ctrl-C in a terminal reaches the gateway alone, which then stops its children in order.
                start_new_session=True,
            )
    except OSError as error:
        what = "" if error.filename else f": {sys.executable!r}"  # which uvloop leaves out
        raise ModelUnavailable(f"the supervisor of model {name} cannot be started: {error}{what}") from error
    try:
        address = await _address(process, name)
    except BaseException:  # cancelled as well: nobody else knows of this process yet
        await _kill(process)
        raise
    return SupervisorChild(name, f"http://{address}", token, grace_s, process)


async def _address(process: asyncio.subprocess.Process, name: str) -> str:
    assert process.stdout is not None  # asked for as a pipe  # noqa: S101
    try:
        line = await asyncio.wait_for(process.stdout.readline(), _ANNOUNCE_S)
        return str(json.loads(line)["address"])
    except (TimeoutError, ValueError, KeyError) as error:
        raise ModelUnavailable(
            f"the supervisor of model {name} did not start", hint="its log says why; try its command by hand"
        ) from error


async def _kill(process: asyncio.subprocess.Process) -> int:
    """SIGKILL: the engine goes with its supervisor, which bound it to its own life."""
    if process.returncode is None:
        process.kill()
    return await process.wait()
