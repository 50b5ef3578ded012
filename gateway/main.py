"""The only place that wires: settings and registry in, an application out. All routes on one screen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match
from starlette.types import ASGIApp

from gateway import __version__, gauges, telemetry
from gateway.api import (
    anthropic,
    anthropic_bodies,
    experiments,
    native,
    openai,
    openai_answers,
    ops,
    tgi,
    tgi_bodies,
)
from gateway.api.bodies import BodyRoute, cut_name
from gateway.api.context import NATIVE, Envelope, RequestContext, error_response, request_id_of
from gateway.api.document import DocumentedApp, described
from gateway.api.services import Services
from gateway.api.shapes import OpenAIError
from gateway.api.streams import shutting_down
from gateway.auth import Keys, RequireKey, ThisMachine
from gateway.config import Registry
from gateway.errors import GatewayError, MethodNotAllowed, NotFound
from gateway.fastpath.entry import FastPath
from gateway.fleet import Fleet, Outward
from gateway.generation import Generations
from gateway.logs import AccessLog
from gateway.metrics import Metrics
from gateway.model_manager import ModelManager
from gateway.scenarios import ScenarioBook, scenario_from
from gateway.settings import Settings, SettingsError, read_secret
from gateway.tracing import tracing_for
from gateway.upstream import ENGINES
from gateway.upstream.base import EngineClient
from gateway.upstream.gauges import followed
from gateway.upstream.names import LookUp, system_look_up
from gateway.upstream.tgi import TgiEngine
from gateway.upstream.transport import EngineHttp, open_client


def create_app(settings: Settings, registry: Registry, *, look_up: LookUp = system_look_up) -> FastAPI:
    """The gateway as an ASGI application. Nothing runs before its lifespan begins.

    Raises SettingsError when a secret cannot be read, anybody on the network could come in, or traces are
    asked for without what they need.
    """
    keys = Keys.from_settings(settings)
    token = _supervisor_token(settings)
    metrics = Metrics(keep_values=settings.statsd_host is not None)
    tracing = tracing_for(settings, metrics)
    access_log = AccessLog()
    machine = (
        None if keys.asked_for or settings.allow_anonymous else ThisMachine(settings.host, settings.web_pages)
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(telemetry.running(metrics, _statsd(settings)))
            if tracing is not None:
                await stack.enter_async_context(tracing.running())
            http = await stack.enter_async_context(open_client(kind=settings.transport))
            services = await _services(settings, registry, metrics, Outward(http, token, look_up), stack)
            app.state.services = services
            if isinstance(http, EngineHttp) and tracing is None:
                engines = pushing(services.generations.engines)
                fast = FastPath(services, http, engines, keys, machine, envelope_of, access_log)
                stack.callback(lambda: fast.end(shutting_down()))
                app.state.fast_path = fast
            yield

    app = DocumentedApp(
        title="Unified LLM Inference Gateway",
        version=__version__,
        lifespan=lifespan,
        # It would send clients to the address that the Host header names.
        redirect_slashes=False,
    )
    app.state.metrics = metrics
    app.router.route_class = BodyRoute
    app.locked = keys.asked_for

    def around(inner: ASGIApp) -> ASGIApp:
        guarded = RequestContext(RequireKey(inner, keys, machine), metrics, envelope_of, tracing, access_log)
        # A browser asks before it sends a key, so this comes first; without origins it is not there.
        return _open_to_pages(guarded, settings.web_pages) if settings.web_pages else guarded

    app.around = around
    app.add_middleware(around)
    app.add_exception_handler(HTTPException, _router_error)
    _add_routes(app)
    return app


def _open_to_pages(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Web pages of these origins may ask, with any header, and read all headers of the answer."""
    return CORSMiddleware(
        app, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=["*"]
    )


def _add_routes(app: FastAPI) -> None:
    """Every path of the product. All but those in auth.PUBLIC_PATHS ask for a key."""

    def add(method: str, path: str, handler: Callable[..., Any]) -> None:
        on_the_page = described(path, method, handler, envelope_of(path))
        app.add_api_route(path, handler, methods=[method], **on_the_page)

    add("POST", "/v1/generate", native.generate)
    add("POST", "/v1/render", native.render_prompt)
    add("GET", "/v1/scenarios", native.scenarios)
    add("GET", "/v1/models", ops.models)
    add("GET", "/v1/models/{model_id:path}/logs", ops.logs)
    add("POST", "/v1/models/{model_id:path}/load", ops.load)
    add("POST", "/v1/models/{model_id:path}/unload", ops.unload)
    add("GET", "/v1/models/{model_id:path}", ops.model)
    add("GET", "/v1/events", ops.events)
    add("GET", "/v1/experiments", experiments.experiments)
    add("POST", "/v1/experiments/{alias:path}/reset", experiments.reset)
    add("GET", "/v1/experiments/{alias:path}", experiments.experiment)
    add("POST", "/v1/chat/completions", openai.chat_completions)
    add("POST", "/v1/completions", openai.completions)
    for path, handler in openai.AT_A_MODEL.items():
        add("POST", f"/models/{{model_id:path}}{path}", handler)
    add("GET", "/models/{model_id:path}/v1/models", ops.models_at)
    for path in openai.NOT_OFFERED:
        add("POST", path, openai.not_offered)
    add("POST", "/v1/messages", anthropic.messages)
    add("POST", "/v1/messages/count_tokens", anthropic.count_tokens)
    for method in ("GET", "HEAD"):
        add(method, "/health", ops.health)
        add(method, "/ready", ops.ready)
    add("GET", "/metrics", ops.metrics)
    add("GET", "/", ops.health)
    add("GET", "/ping", ops.health)
    for model in ("", "/models/{model_id:path}"):
        add("POST", f"{model}/generate", tgi.generate)
        add("POST", f"{model}/generate_stream", tgi.generate_stream)
        add("POST", f"{model}/tokenize", tgi.tokenize)
        add("POST", f"{model}/chat_tokenize", tgi.chat_tokenize)
        add("POST", f"{model}/invocations", tgi.compat)
        add("GET", f"{model}/info", tgi.info)
        add("POST", model or "/", tgi.compat)
    add("GET", "/models/{model_id:path}/health", tgi.health)
    add("GET", "/models/{model_id:path}", tgi.health)


async def _services(
    settings: Settings,
    registry: Registry,
    metrics: Metrics,
    outward: Outward,
    stack: AsyncExitStack,
) -> Services:
    engines = {kind: make(outward.http) for kind, make in ENGINES.items()}
    scenarios = scenario_book(registry)
    fleet = await stack.enter_async_context(Fleet.open(registry, engines, outward, settings.run_dir))
    manager = fleet.manager(metrics)
    metrics.sampled_by(gauges.models(metrics, manager, registry))
    metrics.sampled_by(gauges.devices(metrics, fleet.devices))
    await stack.enter_async_context(manager.running())
    await stack.enter_async_context(followed(metrics, outward.http, lambda: _ready(registry, manager)))
    generations = Generations(registry, scenarios, manager, engines, metrics, settings.heartbeat_s)
    return Services(settings, registry, scenarios, manager, generations, metrics)


def _ready(registry: Registry, manager: ModelManager) -> dict[str, str]:
    """The addresses of the models that are in."""
    found = {spec.id: manager.url_if_ready(spec.id) for spec in registry.models}
    return {model: url for model, url in found.items() if url is not None}


def _statsd(settings: Settings) -> telemetry.Target | None:
    if settings.statsd_host is None:
        return None
    return telemetry.Target(
        host=settings.statsd_host,
        port=settings.statsd_port,
        prefix=settings.statsd_prefix,
        interval_s=settings.statsd_interval_s,
        tags=settings.statsd_tags or "",
    )


def _supervisor_token(settings: Settings) -> str | None:
    path, variable = settings.supervisor_token_file, "GATEWAY_SUPERVISOR_TOKEN_FILE"
    if path is None:
        return None
    if token := read_secret(path, variable).strip():
        return token
    raise SettingsError(f"{variable}={path} is empty. Put the supervisors' token there, or unset it.")


def pushing(engines: Mapping[str, EngineClient]) -> dict[str, TgiEngine]:
    """Those of the kinds whose answers can be handed on as they come."""
    return {kind: engine for kind, engine in engines.items() if isinstance(engine, TgiEngine)}


def fast_path(app: FastAPI) -> FastPath | None:
    """For the server's connections; None where every request takes the ordinary way."""
    found: FastPath | None = getattr(app.state, "fast_path", None)
    return found


def wind_down(app: FastAPI) -> None:
    """To be called when the server begins to stop: whoever only waits or listens is let go."""
    services: Services | None = getattr(app.state, "services", None)
    if services is not None:
        services.manager.wind_down()


def scenario_book(registry: Registry) -> ScenarioBook:
    return ScenarioBook(
        scenario_from(
            name,
            description=_text(spec.description),
            system=_text(spec.system),
            user=_text(spec.user),
            parameters=spec.parameters.model_dump(exclude_none=True),
        )
        for name, spec in registry.scenarios.items()
    )


def _text(value: Any) -> str | Mapping[str, str | None] | None:
    return value if value is None or isinstance(value, str) else dict(value.model_dump())


async def _router_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses, in our envelope."""
    envelope = envelope_of(request.url.path)
    return error_response(_as_ours(request, error), request_id_of(request), envelope)


_TGI_PATHS = (
    "/generate",
    "/generate_stream",
    "/tokenize",
    "/chat_tokenize",
    "/invocations",
    "/info",
    "/models",
)
ENVELOPES: Mapping[str, Envelope] = {
    "/v1/chat": Envelope(openai_answers.CHAT.error, OpenAIError),
    "/v1/completions": Envelope(openai_answers.TEXT.error, OpenAIError),
    **dict.fromkeys(openai.NOT_OFFERED_ROOTS, Envelope(openai_answers.CHAT.error, OpenAIError)),
    "/v1/messages": anthropic_bodies.ENVELOPE,
    **dict.fromkeys(("/", *_TGI_PATHS), tgi_bodies.ENVELOPE),
}
"""Dialects with an error envelope of their own, by path; what lies below a path has the same one."""


def envelope_of(path: str) -> Envelope:
    own = path.rpartition("/v1/")
    if path.startswith("/models/") and own[1]:
        path = f"/v1/{own[2]}"  # the same dialect at a model's own address
    found = (body for root, body in ENVELOPES.items() if path == root or path.startswith(f"{root}/"))
    return next(found, NATIVE)


def _methods_of(request: Request) -> set[str]:
    """All that the path can be asked with: each is a route of its own, and the first that fits is meant."""
    routes = [route for route in request.app.routes if isinstance(route, APIRoute)]
    pattern = next((route.path for route in routes if route.matches(request.scope)[0] is Match.PARTIAL), None)
    return {method for route in routes if route.path == pattern for method in route.methods or ()}


def _as_ours(request: Request, error: Exception) -> GatewayError:
    path = request.url.path
    if isinstance(error, HTTPException) and error.status_code == MethodNotAllowed.status:
        what = f"{request.method} does not work on {cut_name(path)}."
        return MethodNotAllowed(what, allowed=", ".join(sorted(_methods_of(request))))
    return NotFound(f"There is nothing at {cut_name(path)}.", hint="All routes are listed at /docs.")
