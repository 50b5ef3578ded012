"""What engines say about themselves is read whoever they are, and never gets in anybody's way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from harness import free_port, start_echo

from gateway.metrics import Metrics
from gateway.upstream.gauges import Said, followed, read
from gateway.upstream.transport import open_client

PAGES = {
    "tgi": ("# TYPE tgi_queue_size gauge\ntgi_queue_size 3\ntgi_batch_current_size 7\n", Said(3, 7)),
    "vllm": (
        (
            'vllm:num_requests_running{engine="0",model_name="a b"} 2.0\n'
            'vllm:num_requests_running{engine="1",model_name="a b"} 3.0\n'
            'vllm:num_requests_waiting{engine="0",model_name="a b"} 1.0\n'
        ),
        Said(1, 5),
    ),
    "llama.cpp": ("llamacpp:requests_processing 1\nllamacpp:requests_deferred 4\n", Said(4, 1)),
    "sglang": ('sglang:num_running_reqs{tp="0"} 8\nsglang:num_queue_reqs{tp="0"} 0\n', Said(0, 8)),
    "with times": ("tgi_queue_size 3 1700000000000\n", Said(3, None)),
    "not a number": ("tgi_queue_size NaN\ntgi_batch_current_size\n", Said(None, None)),
    "something else": ("<html>404</html>", Said(None, None)),
}


@pytest.mark.parametrize("engine", PAGES)
def test_queue_and_batch_are_read_from_every_kind_of_page(engine: str) -> None:
    page, said = PAGES[engine]
    assert read(page) == said


async def until_value(metrics: Metrics, name: str, labels: dict[str, str], value: float) -> None:
    async with asyncio.timeout(15):
        while metrics.value(name, labels) != value:
            await asyncio.sleep(0.02)


async def test_gauges_follow_a_real_engine_and_silence_is_counted(tmp_path: Path) -> None:
    engine = start_echo(tmp_path, tokens_per_s=20)
    ready = {"echo": engine.url}
    metrics = Metrics()
    try:
        async with open_client() as http, followed(metrics, http, lambda: ready, every_s=0.1):
            async with httpx.AsyncClient(timeout=30) as client:
                body = {"inputs": "word " * 200, "parameters": {"max_new_tokens": 400}}
                async with client.stream("POST", f"{engine.url}/generate_stream", json=body):
                    await until_value(metrics, "gateway_engine_batch", {"model": "echo"}, 1)
            await until_value(metrics, "gateway_engine_batch", {"model": "echo"}, 0)
            ready["gone"] = f"http://127.0.0.1:{free_port()}"
            async with asyncio.timeout(15):
                while not metrics.value("gateway_metrics_dropped_total", {"why": "engine_silent"}):
                    await asyncio.sleep(0.02)
    finally:
        engine.stop()
