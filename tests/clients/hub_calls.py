"""Calls huggingface_hub as its users do, whichever version runs this, and prints what came as JSON.

``python hub_calls.py URL``: ``{"version": …, "sync": {case: outcome}, "async": {case: outcome}}``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import huggingface_hub
from huggingface_hub import AsyncInferenceClient, InferenceClient

HELLO = " ".join(["hello brave new world"] * 3)  # a small model goes on with it as an echo does
FOUR = {"max_new_tokens": 4, "return_full_text": False}
STREAM = {**FOUR, "stream": True}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "plain": ("", HELLO, FOUR),
    "full text": ("", HELLO, {"max_new_tokens": 4}),
    "details": ("", HELLO, {**FOUR, "details": True}),
    "top tokens": ("", HELLO, {**FOUR, "details": True, "top_n_tokens": 1}),
    "best of": ("", HELLO, {**FOUR, "details": True, "best_of": 2, "do_sample": True}),
    "sampled": ("", HELLO, {**FOUR, "temperature": 0.5, "top_k": 5, "top_p": 0.9, "seed": 2, "stop": ["x"]}),
    "stream": ("", HELLO, STREAM),
    "stream details": ("", HELLO, {**STREAM, "details": True}),
    "ends of lines": ("", "one\u2028two\x85three", {"stream": True}),
    "alias in the path": ("/models/mirror", HELLO, FOUR),
    "generate route": ("/models/mirror/generate", HELLO, FOUR),
    "model that comes in": ("/models/sleeper-{mode}", HELLO, STREAM),
    "validation": ("", HELLO, {"top_p": 1.5}),
    "validation in a stream": ("", HELLO, {"top_p": 1.5, "stream": True}),
    "too long": ("", "word " * 3000, {}),
    "unknown model": ("/models/nope", HELLO, FOUR),
    "overloaded": ("/models/broken", "full", {}),
    "overloaded stream": ("/models/broken", "full", {"stream": True}),
    "failed": ("/models/broken", "fail", {}),
    "failed stream": ("/models/broken", "fail", {"stream": True}),
    "broken off": ("/models/broken", "break", {}),
    "broken off stream": ("/models/broken", "break", {"stream": True}),
}


def sync_calls(url: str) -> dict[str, Any]:
    def call(path: str, prompt: str, given: dict[str, Any]) -> Any:
        client = InferenceClient(model=url + path.format(mode="sync"), timeout=20)
        answer = client.text_generation(prompt, **given)
        return list(answer) if given.get("stream") else answer

    # Only with the provider named do they offer health_check and get_endpoint_info.
    client = InferenceClient(model=url, timeout=20, provider="hf-inference")
    found = {name: outcome(lambda case=case: call(*case)) for name, case in CASES.items()}
    found["health"] = outcome(client.health_check)
    found["info"] = outcome(client.get_endpoint_info)
    return found


async def async_calls(url: str) -> dict[str, Any]:
    async def call(path: str, prompt: str, given: dict[str, Any]) -> Any:
        client = AsyncInferenceClient(model=url + path.format(mode="async"), timeout=20)
        answer = await client.text_generation(prompt, **given)
        return [piece async for piece in answer] if given.get("stream") else answer

    client = AsyncInferenceClient(model=url, timeout=20, provider="hf-inference")
    found = {name: await awaited(call(*case)) for name, case in CASES.items()}
    found["health"] = await awaited(client.health_check())
    found["info"] = await awaited(client.get_endpoint_info())
    return found


def outcome(call: Any) -> dict[str, Any]:
    try:
        return {"value": call()}
    except Exception as error:  # which one is what the tests look at
        return {"error": type(error).__name__, "said": str(error)}


async def awaited(work: Any) -> dict[str, Any]:
    try:
        return {"value": await work}
    except Exception as error:
        return {"error": type(error).__name__, "said": str(error)}


if __name__ == "__main__":
    base = sys.argv[1]
    results = {"sync": sync_calls(base), "async": asyncio.run(async_calls(base))}
    print(json.dumps({"version": huggingface_hub.__version__, **results}, default=vars))
