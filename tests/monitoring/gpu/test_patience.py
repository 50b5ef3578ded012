"""Waiting that signals do not disturb."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest
from harness import until

from gpu_sidecar.patience import Patience, Stop


@pytest.fixture
def alarm() -> Iterator[None]:
    """Signals that arrive late in a wait and take longer than what is left of it."""
    before = signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.03))
    signal.setitimer(signal.ITIMER_REAL, 0.08, 0.07)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.usefixtures("alarm")
def test_signals_do_not_lengthen_the_wait_for_a_call_that_hangs(release: threading.Event) -> None:
    began_s = time.monotonic()
    with pytest.raises(TimeoutError):
        Patience(release.wait, 0.6, Stop()).ask()
    assert 0.6 <= time.monotonic() - began_s < 5


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
