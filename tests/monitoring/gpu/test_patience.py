"""Waiting that signals do not disturb."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from harness import until

from gpu_sidecar.patience import Patience, Stop


@pytest.fixture
def disturbed() -> Iterator[None]:
    """Signals whose handlers take longer than what is left of the wait that they arrive in."""
    before = signal.signal(signal.SIGUSR1, lambda *_: time.sleep(0.06))
    quiet = threading.Event()

    def disturb() -> None:
        while not quiet.wait(0.13):
            os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=disturb)
    thread.start()
    yield
    quiet.set()
    thread.join()
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.usefixtures("disturbed")
def test_signals_do_not_lengthen_the_wait_for_a_call_that_hangs(release: threading.Event) -> None:
    began_s = time.monotonic()
    with pytest.raises(TimeoutError):
        Patience(release.wait, 1.5, Stop()).ask()
    assert 1.5 <= time.monotonic() - began_s < 5


def test_who_asks_again_waits_for_the_same_answer(release: threading.Event) -> None:
    calls: list[int] = []

    def call() -> int:
        calls.append(len(calls))
        release.wait()
        return 42

    patience = Patience(call, 0.05, Stop())
    for _ in range(3):
        with pytest.raises(TimeoutError):
            patience.ask()
    release.set()
    assert until(patience.ask, "the answer") == 42
    assert calls == [0]
    assert patience.ask() == 42
    assert calls == [0, 1]


def test_what_a_call_raises_reaches_who_asked() -> None:
    patience = Patience(lambda: 1 // 0, 5, Stop())
    with pytest.raises(ZeroDivisionError):
        patience.ask()


def test_stop_ends_waits_that_have_begun(release: threading.Event) -> None:
    stop = Stop()
    threading.Timer(0.2, stop.ask).start()
    began_s = time.monotonic()
    stop.wait(60)
    with pytest.raises(TimeoutError):
        Patience(release.wait, 60, stop).ask()
    assert time.monotonic() - began_s < 5


def test_wait_ends_by_itself() -> None:
    began_s = time.monotonic()
    Stop().wait(0.15)
    assert 0.15 <= time.monotonic() - began_s < 5
