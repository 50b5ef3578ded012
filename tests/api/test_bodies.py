"""Request bodies: what is kept of them, and what is said of long names."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request, Response
from pydantic import BaseModel, Field

from gateway.api import bodies
from gateway.api.anthropic_bodies import MessagesBody
from gateway.api.bodies import _with_body, cut_name, parse
from gateway.api.native import GenerateBody
from gateway.errors import InvalidRequest


class AnyBody(BaseModel):
    inputs: str


async def test_bytes_of_a_body_are_gone_when_the_endpoint_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = b'{"inputs": "hello"}'
    held: list[int] = []

    async def endpoint(request: Request, body: AnyBody) -> Response:
        held.append(sys.getrefcount(raw))
        return Response()

    async def read(*_: Any) -> bytes:
        return raw

    monkeypatch.setattr(bodies, "read_body", read)
    services = SimpleNamespace(settings=SimpleNamespace(max_body_bytes=100, receive_timeout_s=60.0))
    scope = {
        "type": "http",
        "headers": [(b"content-type", b"application/json")],
        "app": SimpleNamespace(state=SimpleNamespace(services=services)),
    }
    before = sys.getrefcount(raw)
    await _with_body(endpoint, AnyBody, optional=False)(Request(scope))

    assert held == [before]


@pytest.mark.parametrize(("length", "kept"), [(128, 128), (129, 81), (100_000, 81)])
def test_what_is_too_long_to_be_a_name_is_cut(length: int, kept: int) -> None:
    assert len(cut_name("x" * length)) == kept


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (GenerateBody, b'{"inputs": "a", "model_id": ""}'),
        (MessagesBody, b'{"model": "", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}]}'),
    ],
)
def test_empty_name_is_refused_by_its_rule(kind: type[BaseModel], raw: bytes) -> None:
    with pytest.raises(InvalidRequest, match='must be a non-empty string, not ""'):
        parse(raw, kind)


def test_list_of_the_wrong_length_is_said_without_pythons_words() -> None:
    class Short(BaseModel):
        names: tuple[str, ...] = Field(max_length=1, strict=False)

    with pytest.raises(InvalidRequest) as caught:
        parse(b'{"names": ["a", "b"]}', Short)
    assert caught.value.message == "names must have at most 1 item, not 2."
