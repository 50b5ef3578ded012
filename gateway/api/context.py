"""What every HTTP request has: an id, a start, a log line at its end, and errors in one envelope."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api import shapes
from gateway.api.labels import GENERATIONS, NO_ROUTE, route_label
from gateway.api.streams import ClientLeft, shutting_down
from gateway.errors import GatewayError, InternalError, MethodNotAllowed, RequestTimeout
from gateway.logs import AccessLog
from gateway.metrics import Metrics
from gateway.tickets import Begun
from gateway.tracing import Tracing
from gateway.trail import Trail, begin

logger = logging.getLogger("gateway.api")

PATIENCE_S = 120.0
"""The longest Retry-After that OpenAI's clients keep to: told a longer one, they would come back early."""
_PASSING = frozenset({429, 502, 503, 504})
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(rb"[ -~]{1,512}")


def new_request_id() -> str:
    return secrets.token_hex(8)


def request_id_of(request: Request) -> str:
    """The id that stands in the answer, in errors and in the log."""
    return str(request.state.request_id)


def begun_for(request: Request) -> Begun | None:
    """What the fast path has done for this request before it gave it up."""
    begun: Begun | None = getattr(request.state, "begun", None)
    return begun


def error_body(error: GatewayError, request_id: str) -> dict[str, Any]:
    """The native error envelope, without empty fields."""
    fields = {
        "type": error.type,
        "status": error.status,
        "message": error.message,
        "field": error.field,
        "hint": error.hint,
        "retry_after_s": None if error.retry_after_s is None else round(error.retry_after_s, 1),
        "request_id": request_id,
    }
    return {"error": {name: value for name, value in fields.items() if value is not None}}


ErrorBody = Callable[[GatewayError, str], Mapping[str, Any]]
"""A dialect's error envelope: (error, request id) → JSON body."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """How a dialect says that something went wrong: the body, and its form; statuses where it has others than
    ours; and the header in which its clients look for the request's id."""

    body: ErrorBody
    shape: type[BaseModel]
    statuses: Mapping[int, int] = field(default_factory=dict)
    id_header: str | None = None


NATIVE = Envelope(error_body, shapes.Error)


def error_response(error: GatewayError, request_id: str, envelope: Envelope = NATIVE) -> Response:
    headers = {} if envelope.id_header is None else {envelope.id_header: request_id}
    if error.retry_after_s is not None:
        # Whole seconds by RFC 9110, rounded up: a client that comes earlier would be refused again.
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, MethodNotAllowed) and error.allowed:
        headers["allow"] = error.allowed
    if isinstance(error, RequestTimeout):
        # Half of a body is still on its way. (One that is too large is read on for a while, and dropped:
        # a client that is writing would not see why its connection is closed.)
        headers["connection"] = "close"
    if not _may_pass(error):
        headers["x-should-retry"] = "false"
    status = envelope.statuses.get(error.status, error.status)
    return json_response(envelope.body(error, request_id), status=status, headers=headers)


def _may_pass(error: GatewayError) -> bool:
    """Whether the same request could succeed soon. OpenAI's clients repeat what they are not told not to."""
    return error.status in _PASSING and (error.retry_after_s or 0.0) <= PATIENCE_S


def json_response(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(body, fallback=_plain), status, headers, media_type="application/json")


def _plain(value: object) -> object:
    """Read-only mappings are what the serialiser does not know."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


class RequestContext:
    """Outermost middleware. Gives each request its id, and turns every error into an answer.

    ``envelope_of`` names the dialect's error envelope for a path.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        envelope_of: Callable[[str], Envelope],
        tracing: Tracing | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        self._app = app
        self._access_log = access_log or AccessLog()
        self._tracing = tracing
        self._metrics = metrics
        self._envelope_of = envelope_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trail, exchange = begin(), _Exchange(scope, send)
        trail.headers = trace_headers(scope["headers"])
        span = None
        if self._tracing is not None and scope["method"] == "POST":
            span = self._tracing.begin(trail, trail.headers, scope["method"], scope["path"])
        try:
            with self._metrics.open("gateway_http_requests_open"):
                await self._answer(exchange, scope, receive)
        finally:
            route = _route_of(scope)
            self._record(exchange, trail, route_label(scope["method"], route))
            if self._tracing is not None and span is not None:
                self._tracing.end(span, trail, route_label(scope["method"], route), exchange.status)
            self._access_log.write(*exchange.told(route))

    def _record(self, exchange: _Exchange, trail: Trail, route: str) -> None:
        metrics, model, arm = self._metrics, trail.model, trail.arm
        metrics.count("gateway_http_requests_total", route=route, status=exchange.outcome)
        if route not in GENERATIONS:
            return
        status = trail.status_class(exchange.status)
        metrics.count("gateway_requests_total", model=model, route=route, status=status, arm=arm)
        if status == "2xx" and trail.answered:
            metrics.observe("gateway_total_seconds", exchange.lasted_s, model=model, route=route, arm=arm)

    async def _answer(self, exchange: _Exchange, scope: Scope, receive: Receive) -> None:
        try:
            await self._app(scope, receive, exchange.send)
        except (ClientLeft, ClientDisconnect):
            pass  # nobody is there to read an answer; the log line says "left"
        except asyncio.CancelledError:
            # The server ends, and has waited for its answers as long as it may.
            if exchange.status:
                raise
            await self._refuse(shutting_down(), exchange, scope, receive)
        except GatewayError as error:
            if exchange.status:
                raise
            await self._refuse(error, exchange, scope, receive)
        except Exception:
            # The last resort for our own faults: the client gets an envelope, the log the rest.
            logger.exception("internal error", extra={"request_id": exchange.request_id})
            if exchange.status:
                raise
            fault = InternalError(
                "Something went wrong inside the gateway.", hint="The log has more under this request id."
            )
            await self._refuse(fault, exchange, scope, receive)

    async def _refuse(self, error: GatewayError, exchange: _Exchange, scope: Scope, receive: Receive) -> None:
        answer = error_response(error, exchange.request_id, self._envelope_of(scope["path"]))
        await answer(scope, receive, exchange.send)


class _Exchange:
    """One request and its answer, as the log and the metrics see them."""

    def __init__(self, scope: Scope, send: Send) -> None:
        state = scope.setdefault("state", {})
        self.request_id: str = state.get("request_id") or incoming_id(scope["headers"]) or new_request_id()
        self.status = 0
        self._scope = scope
        self._send = send
        self._started: float = state.get("started") or time.perf_counter()
        state["request_id"] = self.request_id
        state["started"] = self._started

    @property
    def outcome(self) -> str:
        """The status, or that the client left before there was one."""
        return str(self.status) if self.status else "left"

    @property
    def lasted_s(self) -> float:
        return time.perf_counter() - self._started

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
            message = {**message, "headers": headers}
        await self._send(message)

    def told(self, route: str) -> tuple[str, dict[str, object]]:
        """For the log: a sentence, and fields."""
        # Not the decoded path: it may hold line ends.
        path = self._scope["raw_path"].decode("ascii", "replace")
        fields = {
            "request_id": self.request_id,
            "route": route,
            "status": self.outcome,
            "ms": round(1000 * self.lasted_s, 1),
            **self._scope["state"].get("log", {}),
        }
        return f"{self._scope['method']} {path} {self.outcome}", fields


def incoming_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The client's own id for its request, if it has one that can be used."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode("ascii"))
    return None


def trace_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """What ties the request to its client's trace, if it is well-formed. It is passed on to the engine."""
    given = {name: value for name, value in headers if name in (b"traceparent", b"tracestate")}
    if not given or not _TRACEPARENT.fullmatch(given.get(b"traceparent", b"")):
        return {}
    if not _TRACESTATE.fullmatch(given.get(b"tracestate", b"")):
        given.pop(b"tracestate", None)
    return {name.decode(): value.decode() for name, value in given.items()}


def _route_of(scope: Scope) -> str:
    """The route's pattern, so that the label stays bounded; ``none`` where nothing matched."""
    return getattr(scope.get("route"), "path", None) or NO_ROUTE
