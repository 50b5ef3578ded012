"""Clients that count: paced requests to a gateway, and what came of each, as the client saw it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from harness import events_of

ROUTE = "/v1/generate"


@dataclass(slots=True)
class Tally:
    """What clients counted. Statuses as classes: 2xx."""

    statuses: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    """Whole answers by the model that gave them."""
    asked: Counter[str] = field(default_factory=Counter)
    """The same by the name that was asked for."""
    tokens_in: Counter[str] = field(default_factory=Counter)
    tokens_out: Counter[str] = field(default_factory=Counter)
    left: int = 0
    """Requests that the client gave up: they get no status."""
    durations_ms: dict[str, list[float]] = field(default_factory=dict)
    """Of whole answers, by model."""

    def whole(self, asked: str, model: str, usage: dict[str, int], ms: float) -> None:
        self.asked[asked] += 1
        self.answered[model] += 1
        self.tokens_in[model] += usage["prompt_tokens"]
        self.tokens_out[model] += usage["completion_tokens"]
        self.durations_ms.setdefault(model, []).append(ms)


class Clients:
    """Asks a gateway; every outcome goes to ``tally``."""

    def __init__(self, url: str, tally: Tally) -> None:
        limits = httpx.Limits(max_connections=200)
        self._http = httpx.AsyncClient(base_url=url, timeout=60, limits=limits)
        self.tally = tally
        self.on_answer: Callable[[str, float, float], None] = _nobody
        self.on_failure: Callable[[str], None] = _nobody

    async def close(self) -> None:
        await self._http.aclose()

    async def ask(self, model: str, tokens: int = 8, *, words: int = 6) -> int:
        """One whole answer; its status."""
        started = time.monotonic()
        answer = await self._http.post(ROUTE, json=_body(model, tokens, words))
        self.tally.statuses[f"{answer.status_code // 100}xx"] += 1
        if answer.status_code == httpx.codes.OK:
            self.tally.whole(model, answer.json()["model_id"], answer.json()["usage"], _ms_since(started))
            self.on_answer("whole", _ms_since(started), _ms_since(started))
        elif answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            self.on_failure("whole")
        return answer.status_code

    async def stream(self, model: str, tokens: int = 20, *, leave_after: int | None = None) -> None:
        """One stream, to its end or left after that many tokens."""
        started, seen, first_ms = time.monotonic(), 0, 0.0
        body = {**_body(model, tokens), "stream": True}
        async with self._http.stream("POST", ROUTE, json=body) as answer:
            async for event in events_of(answer):
                seen += event.name == "token"
                first_ms = first_ms or (_ms_since(started) if seen else 0.0)
                if leave_after is not None and seen >= leave_after:
                    self.tally.left += 1
                    return
                if event.name == "done":
                    self.tally.whole(model, event.data["model_id"], event.data["usage"], _ms_since(started))
                    self.on_answer("stream", _ms_since(started), first_ms)
        self.tally.statuses[f"{answer.status_code // 100}xx"] += 1

    async def give_up(self, model: str, after_s: float) -> None:
        """Ask and leave before the answer."""
        try:
            await self._http.post(ROUTE, json=_body(model, 400), timeout=after_s)
        except httpx.ReadTimeout:
            self.tally.left += 1
        else:
            raise AssertionError("it was answered before the client left")

    async def nonsense(self) -> None:
        answer = await self._http.post(ROUTE, json={"inputs": "a", "parameters": {"temperature": -1}})
        self.tally.statuses[f"{answer.status_code // 100}xx"] += 1


async def paced(rate: float, lasting_s: float, make: Any) -> list[Any]:
    """Start ``make(number)`` at that rate for that long, each at its own due time; wait for all."""
    begun, started = time.monotonic(), []
    for number in range(int(rate * lasting_s)):
        await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
        started.append(asyncio.ensure_future(make(number)))
    return await asyncio.gather(*started)


def _nobody(*_: object) -> None:
    """Listens to nothing."""


def _body(model: str, tokens: int, words: int = 6) -> dict[str, Any]:
    text = " ".join(f"word{number}" for number in range(words))
    return {"model_id": model, "inputs": text, "parameters": {"max_new_tokens": tokens}}


def _ms_since(started: float) -> float:
    return (time.monotonic() - started) * 1000
