"""The chat in a terminal of its own, typed into and read as a person would."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness import REPOSITORY
from pexpect import EOF
from pexpect.fdpexpect import fdspawn

CHAT = REPOSITORY / "examples" / "chat_cli.py"
WAIT_S = 10

CTRL_C = "\x03"
CTRL_D = "\x04"
ENTER = "\r"
ALT_ENTER = "\x1b\r"
TAB = "\t"
UP = "\x1b[A"

# The line editor asks for marked pastes just before it draws its prompt.
PROMPT = "\x1b[?2004h"

# Makes standard input the controlling terminal, without which Ctrl-C is no signal, and becomes the chat.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execv(sys.executable, sys.argv[1:])"
)
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|\x1b[=>78]")


def environment(state: Path, **extra: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    basis = {"LANG": "C.UTF-8", "TERM": "xterm-256color", "XDG_STATE_HOME": str(state)}
    return {**kept, **basis, "PROMPT_TOOLKIT_NO_CPR": "1", **extra}


class Terminal:
    """``seen`` is everything so far, as it came."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._master = master
        self._spawn = fdspawn(master, timeout=WAIT_S, encoding="utf-8")
        self.seen = ""

    def type(self, text: str) -> None:
        self._spawn.send(text)

    def say(self, text: str) -> None:
        self.type(text + ENTER)

    def expect(self, text: str) -> str:
        """Wait for ``text``; what came before it, without escape sequences."""
        self._spawn.expect_exact(text)
        self.seen += self._spawn.before + self._spawn.after
        return plain(self._spawn.before)

    def ended(self) -> int:
        """Wait for the end; the exit code."""
        self._spawn.expect(EOF)
        self.seen += self._spawn.before
        return self.process.wait(WAIT_S)

    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)


def plain(text: str) -> str:
    return _ESCAPES.sub("", text)


@contextlib.contextmanager
def terminal(arguments: list[str], env: Mapping[str, str]) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", _TAKE_TERMINAL, sys.executable, str(CHAT), *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=dict(env),
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(master)
