"""Calls the text-generation client as its users do, and prints what came as JSON; see hub_calls.py."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import sys
from typing import Any

from text_generation import AsyncClient, Client
from text_generation.types import Grammar, GrammarType

HELLO = " ".join(["hello brave new world"] * 3)  # a small model goes on with it as an echo does
FOUR = {"max_new_tokens": 4}
REGEX = Grammar(type=GrammarType.Regex, value="a")
CASES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "plain": ("generate", "", HELLO, FOUR),
    "full text": ("generate", "", HELLO, {**FOUR, "return_full_text": True}),
    "best of": ("generate", "", HELLO, {**FOUR, "best_of": 2, "do_sample": True}),
    "top tokens": ("generate", "", HELLO, {**FOUR, "top_n_tokens": 1}),
    "stop": ("generate", "", HELLO, {"stop_sequences": [" new"]}),
    "stream": ("generate_stream", "", HELLO, FOUR),
    "top tokens stream": ("generate_stream", "", HELLO, {**FOUR, "top_n_tokens": 1}),
    "alias in the path": ("generate", "/models/mirror", HELLO, FOUR),
    "model that comes in": ("generate_stream", "/models/sleeper-{mode}", HELLO, FOUR),
    "too long": ("generate", "", "word " * 3000, {}),
    "too long stream": ("generate_stream", "", "word " * 3000, {}),
    "grammar": ("generate", "", HELLO, {"grammar": REGEX}),
    "unknown model": ("generate", "/models/nope", HELLO, {}),
    "overloaded": ("generate", "/models/broken", "full", {}),
    "overloaded stream": ("generate_stream", "/models/broken", "full", {}),
    "failed": ("generate", "/models/broken", "fail", {}),
    "failed stream": ("generate_stream", "/models/broken", "fail", {}),
    "broken off": ("generate", "/models/broken", "break", {}),
    "broken off stream": ("generate_stream", "/models/broken", "break", {}),
    "silent": ("generate", "/models/broken", "hang", {}),
}


def sync_call(url: str, method: str, path: str, prompt: str, given: dict[str, Any]) -> Any:
    client = Client(url + path.format(mode="sync"), timeout=20)
    answer = getattr(client, method)(prompt, **given)
    return [piece.model_dump() for piece in answer] if "stream" in method else answer.model_dump()


async def async_call(url: str, method: str, path: str, prompt: str, given: dict[str, Any]) -> Any:
    client = AsyncClient(url + path.format(mode="async"), timeout=20)
    answer = getattr(client, method)(prompt, **given)
    return (
        [piece.model_dump() async for piece in answer] if "stream" in method else (await answer).model_dump()
    )


def failure(error: Exception) -> dict[str, Any]:
    return {"error": type(error).__name__, "said": str(error)}


def sync_calls(url: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        try:
            found[name] = {"value": sync_call(url, *case)}
        except Exception as error:  # which one is what the tests look at
            found[name] = failure(error)
    return found


async def async_calls(url: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        try:
            found[name] = {"value": await async_call(url, *case)}
        except Exception as error:
            found[name] = failure(error)
    return found


if __name__ == "__main__":
    base = sys.argv[1]
    results = {"sync": sync_calls(base), "async": asyncio.run(async_calls(base))}
    print(json.dumps({"version": importlib.metadata.version("text-generation"), **results}, default=str))
