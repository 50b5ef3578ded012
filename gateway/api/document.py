"""The OpenAPI page: what each route answers, with which status, and who may ask.

FastAPI sees of a handler only its body. The rest is said here, and a route that is not in the tables below
still has its dialect's errors.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_type_hints

from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from gateway.api import anthropic, experiments, native, openai, ops, shapes, tgi
from gateway.api.context import Envelope
from gateway.api.shortcut import ShortcutApp
from gateway.auth import PUBLIC_PATHS
from gateway.errors import (
    EngineError,
    EngineTimeout,
    Forbidden,
    GatewayError,
    InternalError,
    InvalidJson,
    InvalidRequest,
    ModelNotFound,
    ModelUnavailable,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
    Unauthorized,
    UnsupportedMediaType,
)

Endpoint = Callable[..., Awaitable[Response]]
Errors = tuple[type[GatewayError], ...]

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
_CONTENTS: Final[Mapping[str, dict[str, Any]]] = {
    "text/plain": {"schema": {"type": "string"}},
    EVENTS: {
        "itemSchema": {
            "type": "object",
            "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
            "required": ["data"],
        }
    },
}


@dataclass(frozen=True, slots=True)
class Said:
    """What a handler answers when nothing goes wrong, and how it can go wrong besides the usual ways.

    ``body`` is the JSON body; ``others`` are content types of texts that can come instead. ``also`` are
    further statuses with the same body.
    """

    body: type[BaseModel] | None = None
    others: tuple[str, ...] = ()
    status: int = 200
    errors: Errors = ()
    also: tuple[int, ...] = ()


_WORK: Final[Errors] = (ModelNotFound, Overloaded, ModelUnavailable, EngineError, EngineTimeout)
_NAMED: Final[Errors] = (ModelNotFound,)
_MANAGED: Final[Errors] = (ModelNotFound, InvalidRequest)
_SPLIT: Final = Said(shapes.TgiTokens, errors=_WORK)
SAID: Final[Mapping[Endpoint, Said]] = {
    native.generate: Said(native.GenerateAnswer, (EVENTS,), errors=_WORK),
    native.render_prompt: Said(native.RenderAnswer, errors=_NAMED),
    native.scenarios: Said(shapes.Scenarios),
    ops.models: Said(shapes.Models),
    ops.models_at: Said(shapes.Models, errors=_NAMED),
    ops.model: Said(shapes.ModelCard, errors=_NAMED),
    ops.logs: Said(None, ("text/plain",), errors=(*_MANAGED, ModelUnavailable, EngineError)),
    ops.load: Said(shapes.ModelCard, status=202, errors=_MANAGED),
    ops.unload: Said(shapes.ModelCard, status=202, errors=_MANAGED),
    ops.events: Said(None, (EVENTS,)),
    ops.health: Said(shapes.Alive),
    ops.ready: Said(shapes.Readiness, also=(503,)),
    ops.metrics: Said(None, ("text/plain",)),
    experiments.experiments: Said(),
    experiments.experiment: Said(errors=(NotFound,)),
    experiments.reset: Said(errors=(NotFound,)),
    openai.chat_completions: Said(shapes.ChatCompletion, (EVENTS,), errors=_WORK),
    openai.completions: Said(shapes.TextCompletion, (EVENTS,), errors=_WORK),
    openai.not_offered: Said(status=501, errors=(openai.NotOffered, ModelNotFound)),
    anthropic.messages: Said(shapes.AnthropicMessage, (EVENTS,), errors=_WORK),
    anthropic.count_tokens: Said(shapes.InputTokens, errors=_WORK),
    tgi.generate: Said(shapes.TgiAnswer, errors=_WORK),
    tgi.generate_stream: Said(None, (EVENTS,), errors=_WORK),
    tgi.compat: Said(shapes.TgiAnswers, (EVENTS,), errors=_WORK),
    tgi.tokenize: _SPLIT,
    tgi.chat_tokenize: Said(shapes.TgiChatTokens, errors=_WORK),
    tgi.info: Said(shapes.TgiInfo, errors=_NAMED),
    tgi.health: Said(None, errors=(ModelNotFound, ModelUnavailable)),
}
_BODY_ERRORS: Final[Errors] = (
    InvalidJson,
    RequestTimeout,
    PayloadTooLarge,
    UnsupportedMediaType,
    InvalidRequest,
)
_KEY_ERRORS: Final[Errors] = (Unauthorized, Forbidden)
_DIALECTS: Final[Mapping[str, str]] = {
    "native": "Native",
    "ops": "Models and health",
    "experiments": "Experiments",
    "openai": "OpenAI",
    "anthropic": "Anthropic",
    "tgi": "TGI",
}

_MODEL_ID: Final[dict[str, Any]] = {
    "name": "model_id",
    "in": "path",
    "required": True,
    "description": "a model's id or alias",
    "schema": {"type": "string", "minLength": 1},
}
_WHAT: Final[dict[str, Any]] = {**_MODEL_ID, "name": "what", "description": "which part of that API"}
_ALIAS: Final[dict[str, Any]] = {**_MODEL_ID, "name": "alias", "description": "a split alias"}
_TAIL: Final[dict[str, Any]] = {
    "name": "tail",
    "in": "query",
    "description": "how many lines",
    "schema": {"type": "integer", "minimum": 1, "maximum": ops.MAX_TAIL, "default": ops.DEFAULT_TAIL},
}
_MODEL_HEADER: Final[dict[str, Any]] = {
    "name": tgi.MODEL_HEADER,
    "in": "header",
    "description": "a model's id or alias; left out: the default model",
    "schema": {"type": "string"},
}
_LATER: Final[dict[str, Any]] = {
    "Retry-After": {
        "description": "seconds, where it can be known",
        "schema": {"type": "integer", "minimum": 1},
    }
}
_SCHEMES: Final[dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "one of the gateway's keys"},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "the same key"},
}


class DocumentedApp(ShortcutApp):
    """An application whose page says who may ask. ``locked``: keys are set."""

    locked = False

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document. Made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            _without_the_frameworks_errors(document)
            if self.locked:
                document["components"]["securitySchemes"] = _SCHEMES
                _lock(document["paths"])
        return super().openapi()


def _without_the_frameworks_errors(document: Mapping[str, Any]) -> None:
    """FastAPI documents a 422 of its own wherever a route has no 422."""
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for operation in _operations(document["paths"]):
        if "HTTPValidationError" in str(operation["responses"].get("422")):
            del operation["responses"]["422"]


def _lock(paths: Mapping[str, Mapping[str, dict[str, Any]]]) -> None:
    schemes: list[dict[str, list[str]]] = [{name: []} for name in _SCHEMES]
    for path, operations in paths.items():
        for operation in operations.values():
            operation["security"] = [] if path in PUBLIC_PATHS else schemes


def _operations(paths: Mapping[str, Mapping[str, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for operations in paths.values():
        yield from operations.values()


def described(path: str, method: str, handler: Endpoint, envelope: Envelope) -> dict[str, Any]:
    """What ``FastAPI.add_api_route`` is to be told of a route, besides path, method and handler."""
    said = SAID.get(handler, Said())
    with_body = "body" in get_type_hints(handler)
    errors = [*said.errors, *(_BODY_ERRORS if with_body else ()), InternalError]
    if path not in PUBLIC_PATHS:
        errors += _KEY_ERRORS
    responses = _error_responses(errors, envelope)
    responses |= {status: {"model": said.body} for status in said.also}
    if method == "HEAD":
        # The same without a body.
        responses = {status: {"description": "as for GET"} for status in responses}
        said = Said(None)
    elif said.others:
        responses[said.status] = {"content": {kind: _CONTENTS[kind] for kind in said.others}}
    module = handler.__module__.rpartition(".")[2]
    return {
        "status_code": said.status,
        "response_model": said.body,
        "response_class": JSONResponse if said.body is not None or handler not in SAID else Response,
        "responses": responses,
        "operation_id": _operation_id(path, method),
        "tags": [_DIALECTS.get(module, module)],
        "openapi_extra": {"parameters": _parameters(path, handler)},
    }


def _error_responses(errors: Iterable[type[GatewayError]], envelope: Envelope) -> dict[int, dict[str, Any]]:
    """One response for each status; its description has what each of its errors is for."""
    reasons: dict[int, list[str]] = {}
    for error in errors:
        status = envelope.statuses.get(error.status, error.status)
        reasons.setdefault(status, []).append(f"`{error.type}`")
    schema: dict[str, Any] = {"model": envelope.shape}
    found = {status: {**schema, "description": " or ".join(kinds)} for status, kinds in reasons.items()}
    for status in found.keys() & {Overloaded.status, ModelUnavailable.status}:
        found[status]["headers"] = _LATER
    return found


def _parameters(path: str, handler: Endpoint) -> list[dict[str, Any]]:
    found = [parameter for parameter in (_MODEL_ID, _WHAT, _ALIAS) if f"{{{parameter['name']}" in path]
    if handler is ops.logs:
        found.append(_TAIL)
    if handler.__module__ == tgi.__name__ and _MODEL_ID not in found:
        found.append(_MODEL_HEADER)
    return found


def _operation_id(path: str, method: str) -> str:
    """Unique: a handler may stand behind several paths and methods."""
    words = path.replace(":path", "").translate(str.maketrans("/{}-.", "     ")).split()
    return "_".join([method.lower(), *(words or ["root"])])
