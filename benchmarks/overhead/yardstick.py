"""The yardstick: what everyone writes first. FastAPI and a shared httpx client, as their guides say."""

import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse

ENGINE = os.environ.get("ENGINE_URL", "http://127.0.0.1:8080")
app = FastAPI()
client = httpx.AsyncClient(base_url=ENGINE, timeout=60, limits=httpx.Limits(max_connections=None))


@app.post("/generate")
async def generate(body: dict[str, Any]) -> JSONResponse:
    answer = await client.post("/generate", json=body)
    return JSONResponse(answer.json(), answer.status_code)


@app.post("/generate_stream")
async def generate_stream(body: dict[str, Any]) -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        async with client.stream("POST", "/generate_stream", json=body) as answer:
            async for chunk in answer.aiter_raw():
                yield chunk

    return StreamingResponse(chunks(), media_type="text/event-stream")
