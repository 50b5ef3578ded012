"""Streams from an engine on TGI's wire, with the time of every token."""

from __future__ import annotations

import itertools
import json
import random
import time
from typing import Any

import httpx

from benchmarks.calibrate.fit import Stream

_WORDS = ("stone", "river", "seven", "cloud", "garden", "winter", "letter", "signal", "copper", "bridge")


class EngineClient:
    """``ask`` fits ``measure.Ask``. The engine's own count of tokens is believed."""

    def __init__(self, http: httpx.AsyncClient, url: str, seed: int = 1) -> None:
        self._http = http
        self._url = url.rstrip("/")
        self._random = random.Random(seed)
        self._numbers = itertools.count(1)

    async def info(self) -> dict[str, Any]:
        answer = await self._http.get(f"{self._url}/info")
        answer.raise_for_status()
        body: dict[str, Any] = answer.json()
        return body

    async def ask(self, input_tokens: int, new_tokens: int) -> Stream:
        """Raises httpx.HTTPError; ValueError when the engine answers with an error or with nothing."""
        parameters = {"max_new_tokens": new_tokens, "details": True, "do_sample": False}
        body = {"inputs": self._prompt(input_tokens), "parameters": parameters}
        sent_s = time.perf_counter()
        arrived: list[float] = []
        counted = input_tokens
        async with self._http.stream("POST", f"{self._url}/generate_stream", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if not line.startswith("data:"):
                    continue
                arrived.append(time.perf_counter())
                if '"generated_text":null' not in line:
                    counted = _input_tokens(line, input_tokens)
        if not arrived:
            raise ValueError("the engine ended a stream without a token")
        return Stream(counted, sent_s, tuple(arrived))

    def _prompt(self, tokens: int) -> str:
        """About so many tokens, other ones each time: what an engine has seen, it need not read again."""
        words = [f"n{next(self._numbers)}", *self._random.choices(_WORDS, k=max(0, tokens - 1))]
        return " ".join(words)


def _input_tokens(line: str, asked: int) -> int:
    event = json.loads(line[5:])
    if "error" in event:
        raise ValueError(f"the engine answered: {event['error']}")
    details = event.get("details") or {}
    return int(details.get("input_length") or asked)
