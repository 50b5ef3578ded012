"""The lane that counts instructions: what the gateway costs, nearly the same each time."""

from __future__ import annotations

import pytest

from benchmarks.overhead.guard import Share
from benchmarks.overhead.instructions import MEASURED, counted, too_dear

pytestmark = [pytest.mark.instructions, pytest.mark.timeout(600)]


def share(**settings: str) -> Share:
    mine, theirs = counted(settings)
    return mine.of(theirs)


def test_gateway_takes_no_more_instructions_than_it_did() -> None:
    assert too_dear(share()) is None


def test_slow_path_takes_more_and_is_noticed() -> None:
    assert too_dear(share(GATEWAY_TRANSPORT="httpx")) is not None


def test_doubled_counts_are_noticed() -> None:
    assert too_dear(MEASURED) is None
    assert "a plain request" in (too_dear(Share(2 * MEASURED.request, MEASURED.token)) or "")
    assert "a streamed token" in (too_dear(Share(MEASURED.request, 2 * MEASURED.token)) or "")
