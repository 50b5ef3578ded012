"""Web pages: none may ask from a browser unless its origin is set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from harness import Running, model
from pydantic import ValidationError

from gateway.settings import Settings

PAGE, OTHER = "https://chat.example.com", "https://evil.example.com"
Start = Callable[..., Running]


def preflight(running: Running, origin: str) -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    return httpx.options(f"{running.url}/v1/generate", headers=headers)


def asked(running: Running, origin: str, **headers: str) -> httpx.Response:
    body: dict[str, Any] = {"inputs": "one two", "scenario": "raw"}
    return httpx.post(f"{running.url}/v1/generate", json=body, headers={"origin": origin, **headers})


def test_a_page_whose_origin_is_set_may_ask_and_another_may_not(echo: Start, gateway: Start) -> None:
    running = gateway(
        {"models": [model(echo().url)]}, api_key="k", cors_origins=f"{PAGE},http://localhost:3000"
    )
    allowed = preflight(running, PAGE)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert preflight(running, OTHER).status_code == 400
    answer = asked(running, PAGE, authorization="Bearer k")
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    refused = asked(running, PAGE)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == PAGE  # so that the page can read why
    assert "access-control-allow-origin" not in asked(running, OTHER, authorization="Bearer k").headers


def test_without_origins_and_keys_no_page_may_ask(echo: Start, gateway: Start) -> None:
    running = gateway({"models": [model(echo().url)]})
    assert "access-control-allow-origin" not in preflight(running, PAGE).headers
    assert asked(running, PAGE).status_code == 403


def test_a_page_whose_origin_is_set_may_ask_without_a_key_where_none_is_asked_for(
    echo: Start, gateway: Start
) -> None:
    running = gateway({"models": [model(echo().url)]}, cors_origins=PAGE)
    assert asked(running, PAGE).status_code == 200
    assert asked(running, OTHER).status_code == 403


@pytest.mark.parametrize(
    "value", ["*", "chat.example.com", "https://a.example.com/path", "https://a.example.com,"]
)
def test_what_is_no_list_of_origins_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="cors_origins"):
        Settings(cors_origins=value)
