"""From a request's bytes to something that may run: parsing with axum's plain-text refusals, TGI's rules."""

from __future__ import annotations

import secrets
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from gateway.engine.backend import Backend, Job, Refused
from gateway.wire.tgi import (
    GenerateRequest,
    Limits,
    length_violation,
    tokens_to_generate,
    violation,
)

PAYLOAD_LIMIT_BYTES = 2_000_000
_Body = TypeVar("_Body", bound=BaseModel)


class Unparsable(Exception):
    """The body could not be read as what the route takes. Answered as plain text, not as JSON."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def parse(request: Request, body_type: type[_Body]) -> _Body:
    """Read and parse the whole body. Raises Unparsable, ClientDisconnect."""
    if not _declares_json(request.headers.get("content-type", "")):
        raise Unparsable(415, "Expected request with `Content-Type: application/json`")
    raw = await _read(request)
    try:
        return body_type.model_validate_json(raw)
    except ValidationError as error:
        raise _unparsable(error) from error


def _declares_json(content_type: str) -> bool:
    essence = content_type.partition(";")[0].strip().lower()
    return essence == "application/json" or (essence.startswith("application/") and essence.endswith("+json"))


async def _read(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > PAYLOAD_LIMIT_BYTES:
            raise Unparsable(413, "Failed to buffer the request body: length limit exceeded")
        parts.append(part)
    return b"".join(parts)


def _unparsable(error: ValidationError) -> Unparsable:
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return Unparsable(400, f"Failed to parse the request body as JSON: {first['msg']}")
    path = ".".join(str(part) for part in first["loc"]) or "."
    where = f"{path}: {first['msg']}"
    return Unparsable(422, f"Failed to deserialize the JSON body into the target type: {where}")


async def prepare(request: GenerateRequest, backend: Backend, limits: Limits, *, stream: bool) -> Job:
    """Check everything and tokenise. Raises Refused, GenerationFailed."""
    parameters = request.parameters
    broken = violation(parameters, limits, stream=stream)
    if broken is None and not request.inputs:
        broken = "`inputs` cannot be empty"
    broken = broken or backend.refusal(parameters)
    if broken is not None:
        raise Refused(broken)
    tokens = tuple(await backend.encode(request.inputs))
    if parameters.truncate is not None:
        tokens = tokens[-parameters.truncate :]  # the last tokens are the ones that stay
    broken = length_violation(len(tokens), parameters.max_new_tokens, limits)
    if broken is not None:
        raise Refused(broken)
    return Job(
        inputs=request.inputs,
        tokens=tokens,
        max_new_tokens=tokens_to_generate(len(tokens), parameters.max_new_tokens, limits),
        seed=_seed(request),
        parameters=parameters,
    )


def _seed(request: GenerateRequest) -> int | None:
    if not request.parameters.samples:
        return None  # greedy: TGI reports no seed then
    given = request.parameters.seed
    return random_seed() if given is None else given


def random_seed() -> int:
    return secrets.randbits(63)
