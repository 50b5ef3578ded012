"""The only place that wires: settings and registry in, an application out. All routes on one screen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from gateway import __version__
from gateway.api import anthropic, anthropic_bodies, native, openai, openai_answers, ops, tgi, tgi_bodies
from gateway.api.bodies import BodyRoute, cut_name
from gateway.api.context import NATIVE, Envelope, RequestContext, error_response, request_id_of
from gateway.api.services import Services
from gateway.api.shortcut import ShortcutApp
from gateway.auth import Keys, RequireKey, ThisMachine
from gateway.config import Registry, Settings, SettingsError, read_secret
from gateway.errors import GatewayError, MethodNotAllowed, NotFound
from gateway.fleet import Fleet, Outward
from gateway.generation import Generations
from gateway.metrics import Metrics
from gateway.scenarios import ScenarioBook, scenario_from
from gateway.upstream import ENGINES
from gateway.upstream.transport import open_client


def create_app(settings: Settings, registry: Registry) -> FastAPI:
    """The gateway as an ASGI application. Nothing runs before its lifespan begins.

    Raises SettingsError when a secret cannot be read, or anybody on the network could come in.
    """
    keys = Keys.from_settings(settings)
    token = _supervisor_token(settings)
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(open_client(kind=settings.transport))
            app.state.services = await _services(settings, registry, metrics, Outward(http, token), stack)
            yield

    app = ShortcutApp(
        title="Unified LLM Inference Gateway",
        version=__version__,
        lifespan=lifespan,
        # It would send clients to the address that the Host header names.
        redirect_slashes=False,
    )
    app.router.route_class = BodyRoute
    machine = None if keys.asked_for or settings.allow_anonymous else ThisMachine(settings.host)

    def around(inner: ASGIApp) -> ASGIApp:
        return RequestContext(RequireKey(inner, keys, machine), metrics, _envelope_of)

    app.around = around
    app.add_middleware(around)
    app.add_exception_handler(HTTPException, _router_error)
    _add_routes(app)
    return app


def _add_routes(app: FastAPI) -> None:
    """Every path of the product. All but those in auth.PUBLIC_PATHS ask for a key."""

    def add(method: str, path: str, handler: Callable[..., Any], answer: type | None = None) -> None:
        app.add_api_route(path, handler, methods=[method], response_model=answer)

    add("POST", "/v1/generate", native.generate, native.GenerateAnswer)
    add("POST", "/v1/render", native.render_prompt, native.RenderAnswer)
    add("GET", "/v1/scenarios", native.scenarios)
    add("GET", "/v1/models", ops.models)
    add("GET", "/v1/models/{model_id:path}/logs", ops.logs)
    add("GET", "/v1/models/{model_id:path}", ops.model)
    add("POST", "/v1/models/{model_id:path}/load", ops.load)
    add("POST", "/v1/models/{model_id:path}/unload", ops.unload)
    add("GET", "/v1/events", ops.events)
    add("POST", "/v1/chat/completions", openai.chat_completions)
    add("POST", "/v1/completions", openai.completions)
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
    scenarios = _scenario_book(registry)
    fleet = await stack.enter_async_context(Fleet.open(registry, engines, outward, settings.run_dir))
    manager = fleet.manager(metrics)
    await stack.enter_async_context(manager.running())
    generations = Generations(registry, scenarios, manager, engines, metrics, settings.heartbeat_s)
    return Services(settings, registry, scenarios, manager, generations, metrics)


def _supervisor_token(settings: Settings) -> str | None:
    path, variable = settings.supervisor_token_file, "GATEWAY_SUPERVISOR_TOKEN_FILE"
    if path is None:
        return None
    if token := read_secret(path, variable).strip():
        return token
    raise SettingsError(f"{variable}={path} is empty. Put the supervisors' token there, or unset it.")


def wind_down(app: FastAPI) -> None:
    """To be called when the server begins to stop: whoever only waits or listens is let go."""
    services: Services | None = getattr(app.state, "services", None)
    if services is not None:
        services.manager.wind_down()


def _scenario_book(registry: Registry) -> ScenarioBook:
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
    envelope = _envelope_of(request.url.path)
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
    "/v1/chat": Envelope(openai_answers.CHAT.error),
    "/v1/completions": Envelope(openai_answers.TEXT.error),
    **dict.fromkeys(openai.NOT_OFFERED_ROOTS, Envelope(openai_answers.CHAT.error)),
    "/v1/messages": anthropic_bodies.ENVELOPE,
    **dict.fromkeys(("/", *_TGI_PATHS), tgi_bodies.ENVELOPE),
}
"""Dialects with an error envelope of their own, by path; what lies below a path has the same one."""


def _envelope_of(path: str) -> Envelope:
    found = (body for root, body in ENVELOPES.items() if path == root or path.startswith(f"{root}/"))
    return next(found, NATIVE)


def _as_ours(request: Request, error: Exception) -> GatewayError:
    path = request.url.path
    if isinstance(error, HTTPException) and error.status_code == MethodNotAllowed.status:
        allowed = (error.headers or {}).get("Allow", "another method")
        what = f"{request.method} does not work on {cut_name(path)}."
        return MethodNotAllowed(what, hint=f"Use {allowed}.")
    return NotFound(f"There is nothing at {cut_name(path)}.", hint="All routes are listed at /docs.")
