"""Bodies to and from engines: JSON both ways, and what to say when it is not what was expected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from gateway.errors import EngineError, InvalidRequest
from gateway.schemas import Clocks
from gateway.upstream.calls import Call
from gateway.wire.json import KEYS_ALONE


def json_body(body: Mapping[str, object] | str) -> bytes:
    """Compact JSON. Raises InvalidRequest for what JSON cannot hold."""
    try:
        quick = to_json(body)
        if isinstance(body, str):
            return quick
        if quick.find(b"NaN") < 0 and quick.find(b"Infinity") < 0:  # several times as quick as `in`
            return quick
    except (PydanticSerializationError, UnicodeError):
        pass  # said in words below
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise InvalidRequest("inputs or a stop string holds half of a character", field="inputs") from None
    except ValueError:
        raise InvalidRequest("a parameter is not a finite number", field="parameters") from None


def object_of(data: bytes, call: Call) -> dict[str, Any]:
    """The JSON object in ``data``. Raises EngineError."""
    try:
        body = from_json(data, cache_strings=KEYS_ALONE)
    except ValueError as error:
        raise not_understood(call, error) from None
    if not isinstance(body, dict):
        raise not_understood(call, TypeError("not an object"))
    return body


def not_understood(call: Call, error: Exception) -> EngineError:
    return EngineError(
        f"{call.address} sent what cannot be understood: {type(error).__name__}",
        hint="Check the address and the engine kind of this model in the registry.",
    )


def within(timeout_s: float) -> Clocks:
    """All clocks at once."""
    return Clocks(connect_s=timeout_s, first_token_s=timeout_s, between_tokens_s=timeout_s, total_s=timeout_s)
