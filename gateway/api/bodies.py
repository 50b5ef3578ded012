"""Request bodies: bytes to a validated model in one step, and what was wrong in words.

``BodyRoute`` replaces FastAPI's own parsing, which decodes JSON to Python objects and then validates
those, and says of a wrong content type only that the input is no dictionary. The OpenAPI page stays,
since FastAPI still sees the signature.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import AfterValidator, BaseModel, Field, ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import InvalidJson, InvalidRequest, PayloadTooLarge, RequestTimeout, UnsupportedMediaType
from gateway.fields import did_you_mean, follows, in_words, names_at
from gateway.parameters import HINTS, Parameters

Body = TypeVar("Body", bound=BaseModel)
Handler = Callable[[Request], Coroutine[Any, Any, Response]]

MAX_NAME = 128
"""No alias can be longer."""
_SHOWN = 80


def cut_name(name: str) -> str:
    """``name``, or the beginning of what is too long to be one: it will be in an error message."""
    return name if len(name) <= MAX_NAME else f"{name[:_SHOWN]}…"


Name = Annotated[str, AfterValidator(cut_name)]
"""A name that a client gives for a model or a scenario."""
NonEmptyName = Annotated[str, Field(min_length=1), AfterValidator(cut_name)]


def null_is_left_out(schema: dict[str, Any]) -> None:
    """For ``json_schema_extra`` of a body in which null counts as left out: its schema says so."""
    required = schema.get("required", ())
    for name, known in schema.get("properties", {}).items():
        if name not in required and not _takes_null(known):
            about = {key: known[key] for key in ("title", "description", "default") if key in known}
            rest = {key: value for key, value in known.items() if key not in about}
            schema["properties"][name] = {"anyOf": [rest, {"type": "null"}], **about}


def _takes_null(schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("anyOf", [schema])
    return any(kind.get("type") in (None, "null") and "$ref" not in kind for kind in kinds)


class BodyRoute(APIRoute):
    """A route whose endpoint takes ``(request)``, ``(request, body: Model)`` or ``body: Model | None``.

    It has no dependencies, and what it raises is answered by ``RequestContext``.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = _called(self.get_route_handler())

    def get_route_handler(self) -> Handler:
        endpoint: Callable[..., Awaitable[Response]] = self.endpoint
        hint = get_type_hints(endpoint).get("body")
        if hint is None:
            return _without_body(endpoint)
        models = [kind for kind in (get_args(hint) or (hint,)) if kind is not NoneType]
        return _with_body(endpoint, models[0], optional=NoneType in get_args(hint))


def _called(handler: Handler) -> ASGIApp:
    """A route as an application, without what FastAPI puts around it for dependencies and error handlers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await handler(Request(scope, receive, send))
        await response(scope, receive, send)

    return app


def _without_body(endpoint: Callable[..., Awaitable[Response]]) -> Handler:
    async def handle(request: Request) -> Response:
        return await endpoint(request)

    return handle


def _with_body(
    endpoint: Callable[..., Awaitable[Response]], body_type: type[BaseModel], *, optional: bool
) -> Handler:
    async def handle(request: Request) -> Response:
        return await endpoint(request, body=await _body_of(request, body_type, optional=optional))

    return handle


async def _body_of(request: Request, body_type: type[Body], *, optional: bool) -> Body | None:
    """The validated body. The bytes are gone when the endpoint, which may wait for long, runs."""
    settings = request.app.state.services.settings
    raw = await read_body(request, settings.max_body_bytes, settings.receive_timeout_s)
    if optional and raw.strip() in (b"", b"null"):
        return None
    check_content_type(request.headers.get("content-type"))
    return parse(raw, body_type)


def check_content_type(value: str | None) -> None:
    """Raises UnsupportedMediaType for anything but JSON."""
    if value == "application/json":
        return
    kind = (value or "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        value = (value or "").strip()  # of what stands around it servers leave more or less
        got = f"`{cut_name(value)}`" if value else "none"
        hint = "Send the header `Content-Type: application/json`."
        raise UnsupportedMediaType(f"The body must be JSON, but its content type is {got}.", hint=hint)


async def read_body(request: Request, limit_bytes: int, limit_s: float) -> bytes:
    """The whole body. Raises PayloadTooLarge as soon as it is known to be over the limit, and RequestTimeout
    when it is not complete within ``limit_s`` seconds."""
    clock = asyncio.timeout(limit_s)
    try:
        async with clock:
            return await _whole_body(request, limit_bytes)
    except TimeoutError:
        if not clock.expired():
            raise
        raise RequestTimeout(
            f"The body was not complete within {limit_s:g} s.",
            hint="Send it faster, or have the operator raise GATEWAY_RECEIVE_TIMEOUT_S.",
        ) from None


async def _whole_body(request: Request, limit_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The body is larger than the limit of {limit_bytes:,} bytes.",
        hint="Send less, or have the operator raise GATEWAY_MAX_BODY_BYTES.",
    )


def parse(raw: bytes, body_type: type[Body]) -> Body:
    """Validate bytes. Raises InvalidJson, or InvalidRequest naming the first wrong field and its rule."""
    try:
        return body_type.model_validate_json(raw)
    except ValidationError as error:
        raise _explained(error, raw, body_type) from None


def _explained(error: ValidationError, raw: bytes, body_type: type[BaseModel]) -> InvalidRequest:
    details = [detail for detail in error.errors(include_url=False) if not follows(detail)]
    first = details[0]
    if first["type"] == "json_invalid":
        return InvalidJson(
            f"The body is not JSON: {_json_reason(raw, first)}.", hint="Check quotes and commas."
        )
    field = ".".join(str(part) for part in first["loc"] if part != "[key]")
    sentences = [_sentence(detail, body_type) for detail in details[:5]]
    if len(details) > len(sentences):
        sentences.append(f"And {len(details) - len(sentences)} more.")
    return InvalidRequest(" ".join(sentences), field=field or None, hint=_hint(first))


def _json_reason(raw: bytes, detail: Mapping[str, Any]) -> str:
    if not raw.strip():
        return "it is empty"
    try:
        json.loads(raw)
    except UnicodeDecodeError:
        return "it is not UTF-8"
    except json.JSONDecodeError as error:
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    except RecursionError:
        return "it is nested too deeply"
    except ValueError:
        return "a number in it has too many digits"
    return str(detail.get("ctx", {}).get("error", "it cannot be read"))


def _sentence(detail: Mapping[str, Any], body_type: type[BaseModel]) -> str:
    loc = [part for part in detail["loc"] if part != "[key]"]
    path = ".".join(map(str, loc)) or "the body"
    if detail["type"] == "extra_forbidden":
        names = names_at(body_type, loc[:-1])
        guess = did_you_mean(str(loc[-1]), names)
        return f"{path} does not exist here{guess}; there are: {', '.join(names)}."
    if detail["type"] == "missing":
        return f"{path} is required."
    if detail["type"] == "value_error":
        return f"{path}: {detail['ctx']['error']}."
    message = in_words(str(detail["msg"]))
    if message.startswith("Should have "):
        return f"{path} must have {message.removeprefix('Should have ')}."
    return f"{path} must be {_rule(loc, detail)}, not {_short(detail['input'])}."


def _rule(loc: list[Any], detail: Mapping[str, Any]) -> str:
    if len(loc) == 2 and loc[0] == "parameters" and loc[1] in Parameters.model_fields:
        return Parameters.model_fields[loc[1]].description or "valid"
    message = str(detail["msg"]).removeprefix("Input should be ").removeprefix("Value should be ")
    return {"String should have at least 1 character": "a non-empty string"}.get(message, message)


def _hint(detail: Mapping[str, Any]) -> str | None:
    return HINTS.get(str(detail["loc"][-1])) if detail["loc"] else None


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."
