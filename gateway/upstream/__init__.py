"""What the gateway speaks to: engines, one file per kind, and the supervisors around them.

A new kind of engine is one file that fulfils ``base.EngineClient`` and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import httpx

from gateway.upstream.base import EngineClient
from gateway.upstream.openai import OpenAiEngine
from gateway.upstream.tgi import TgiEngine

ENGINES: Final[Mapping[str, Callable[[httpx.AsyncClient], EngineClient]]] = {
    "tgi": TgiEngine,
    "openai": OpenAiEngine,
}
