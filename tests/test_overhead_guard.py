"""What the gateway costs is held to the plain FastAPI gateway, by processor time in the same run."""

from __future__ import annotations

import pytest

from benchmarks.overhead.guard import MEASURED, Share, shares, too_dear


@pytest.fixture(scope="module")
def measured() -> dict[str, Share]:
    """The gateway, and one that is slow on purpose: over httpx's connections."""
    return shares({"gateway": {}, "slow": {"GATEWAY_TRANSPORT": "httpx"}})


@pytest.mark.timeout(300)
def test_gateway_has_not_become_dear(measured: dict[str, Share]) -> None:
    assert too_dear(measured["gateway"]) is None


@pytest.mark.timeout(300)
def test_slow_path_is_noticed(measured: dict[str, Share]) -> None:
    why = too_dear(measured["slow"])
    assert why is not None
    assert "a plain request" in why


def test_doubled_costs_are_noticed_and_noise_is_not() -> None:
    assert too_dear(MEASURED) is None
    assert too_dear(Share(1.4 * MEASURED.request, 1.4 * MEASURED.token)) is None
    assert "a plain request" in (too_dear(Share(2.1 * MEASURED.request, MEASURED.token)) or "")
    assert "a streamed token" in (too_dear(Share(MEASURED.request, 2.1 * MEASURED.token)) or "")
