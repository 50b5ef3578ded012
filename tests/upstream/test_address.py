"""One of a name's addresses is called, and the engine still hears the name."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.upstream import ENGINES
from gateway.upstream.address import named, shown
from gateway.upstream.base import EngineClient
from gateway.upstream.openai_served import Place


@pytest.mark.parametrize("kind", ENGINES)
async def test_host_header_is_the_name_and_not_the_address(serve: Any, client: Any, kind: str) -> None:
    made: EngineClient = ENGINES[kind](client)
    async with serve([("200 OK", {})], [("503 Unavailable", {"error": "loading"})]) as engine:
        name = named(engine.url.replace("127.0.0.1", "user:secret@engines.test"))
        assert name
        at = name.at("127.0.0.1")

        await made.healthy(at, 5.0)
        with pytest.raises(GatewayError) as caught:
            await made.healthy(at, 5.0)

    port = engine.url.rpartition(":")[2]
    assert [headers["host"] for _, headers, _ in engine.requests] == [f"engines.test:{port}"] * 2
    assert [path for path, _, _ in engine.requests] == ["/health"] * 2
    assert f"http://127.0.0.1:{port}/health (engines.test:{port})" in caught.value.message
    assert "secret" not in caught.value.message


async def test_a_model_behind_a_name_keeps_its_own_path() -> None:
    name = named("http://ollama:11434/v1/models/qwen2")
    assert name

    place = Place.of(name.at("fd00::2"))

    assert place == Place("http://[fd00::2]:11434#ollama:11434", "qwen2")
    assert Place.of("http://10.0.0.2/v1#vllm").base == "http://10.0.0.2#vllm"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://user:secret@10.0.0.2:80/v1/#tgi:80", "http://10.0.0.2:80/v1 (tgi:80)"),
        ("https://engine.example/", "https://engine.example"),
        ("http://u@[fd00::2]:80", "http://[fd00::2]:80"),
    ],
)
def test_people_see_addresses_without_secrets(url: str, said: str) -> None:
    assert shown(url) == said
