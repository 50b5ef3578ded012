"""What handlers work with, found through the application's state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from fastapi import Request

from gateway.config import Registry
from gateway.generation import Generations
from gateway.metrics import Metrics
from gateway.model_manager import ModelManager
from gateway.scenarios import ScenarioBook
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """Made once, by ``create_app``."""

    settings: Settings
    registry: Registry
    scenarios: ScenarioBook
    manager: ModelManager
    generations: Generations
    metrics: Metrics


def services_of(request: Request) -> Services:
    return cast("Services", request.app.state.services)
