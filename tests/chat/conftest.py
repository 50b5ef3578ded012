"""The fake gateway and the two ways to start the chat at it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat.fake_gateway import FakeGateway, serving
from chat.terminals import CHAT, PROMPT, Terminal, environment, terminal


@pytest.fixture
def fake() -> Iterator[FakeGateway]:
    with serving() as fake:
        yield fake


@pytest.fixture
def run(fake: FakeGateway, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run("--quiet", "hello", stdin="…", LANG="zh_CN.UTF-8")``: the chat through pipes, until its end."""

    def start(*arguments: str, stdin: str | bytes = "", **env: str) -> subprocess.CompletedProcess[str]:
        piped = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [sys.executable, str(CHAT), "--url", fake.url, *arguments],
            input=piped,
            capture_output=True,
            timeout=20,
            env=environment(tmp_path, **env),
        )
        out, errors = done.stdout.decode(), done.stderr.decode()
        return subprocess.CompletedProcess(done.args, done.returncode, out, errors)

    return start


@pytest.fixture
def chat(fake: FakeGateway, tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """``chat("--model", "smollm2", NO_COLOR="1")``: the chat in a terminal, past its welcome."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, welcome: str = "Ctrl-D leaves", **env: Any) -> Terminal:
            whole = ["--url", fake.url, *arguments]
            opened = stack.enter_context(terminal(whole, environment(tmp_path / "state", **env)))
            opened.expect(welcome)
            opened.expect("> " if env.get("TERM") == "dumb" else PROMPT)
            return opened

        yield start
