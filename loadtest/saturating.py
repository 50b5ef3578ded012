"""Only sources at a rate, without the ramp: for a load that stays. See ``loadtest/saturation.py``."""

from __future__ import annotations

import sys
from pathlib import Path

from locust import events

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadtest.hooks import install
from loadtest.users.saturating import SaturatingUser

__all__ = ["SaturatingUser"]

install(events)
