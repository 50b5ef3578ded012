"""For operators and for load balancers: models and their states, health, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from gateway.api.bodies import cut_name
from gateway.api.context import json_response
from gateway.api.services import Services, services_of
from gateway.api.streams import EventStream, until_left
from gateway.config import AliasSpec, ModelSpec
from gateway.errors import InvalidRequest, MethodNotAllowed, ModelNotFound
from gateway.events import ModelEvent
from gateway.replicas import Replica
from gateway.scheduler import State
from gateway.upstream.address import shown
from gateway.wire.sse import encode_comment, encode_event

MAX_TAIL = 2000
DEFAULT_TAIL = 200


class UnloadBody(BaseModel):
    """How to unload."""

    model_config = ConfigDict(extra="forbid", strict=True)

    force: bool = Field(False, description="do not wait for running answers: they break off")


class LoadBody(BaseModel):
    """Nothing can be chosen: an empty object, or no body at all."""

    model_config = ConfigDict(extra="forbid", strict=True)


async def health(request: Request) -> Response:
    """The process lives. Says nothing about models."""
    return json_response({"status": "ok"})


async def ready(request: Request) -> Response:
    """200 when at least one model can answer, be it after coming in; 503 otherwise."""
    services = services_of(request)
    states = {spec.id: services.manager.view(spec.id).state.value for spec in services.registry.models}
    can_answer = services.manager.any_ready()
    return json_response({"ready": can_answer, "models": states}, status=200 if can_answer else 503)


async def metrics(request: Request) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(services_of(request).metrics.exposition(), media_type="text/plain; version=0.0.4")


async def models(request: Request) -> Response:
    """All models and split aliases, in OpenAI's list shape, with our fields inside each entry.

    `aliases` beside the list says what every alias of the registry means.
    """
    services = services_of(request)
    registry = services.registry
    rows = [_model(services, spec) for spec in registry.models]
    rows += [_split(services, name, alias) for name, alias in registry.splits().items()]
    meanings = {name: _meaning(alias) for name, alias in registry.aliases.items()}
    return json_response({"object": "list", "data": rows, "aliases": meanings})


async def models_at(request: Request) -> Response:
    """The list for a client that was given a model's own address: that model alone."""
    services = services_of(request)
    return json_response({"object": "list", "data": [_model(services, _spec(request))]})


async def model(request: Request) -> Response:
    """One model, by id or alias; or a split alias."""
    services, name = services_of(request), _name(request)
    if name.endswith(("/load", "/unload")) and services.registry.resolve(name) is None:
        raise MethodNotAllowed(f"{request.method} does not work on {request.url.path}.", allowed="POST")
    split = services.registry.splits().get(name)
    row = _split(services, name, split) if split else _model(services, _spec(request))
    return json_response(row)


async def load(request: Request, body: LoadBody | None = None) -> Response:
    """Bring a model in. Answers at once; the state is under /v1/models/{id}."""
    services, spec = services_of(request), _spec(request)
    _must_be_managed(spec)
    services.manager.load(spec.id)
    return _accepted(services, spec)


async def unload(request: Request, body: UnloadBody | None = None) -> Response:
    """Send a model away once its running answers are complete, or at once with `"force": true`."""
    services, spec = services_of(request), _spec(request)
    _must_be_managed(spec)
    services.manager.unload(spec.id, force=body is not None and body.force)
    return _accepted(services, spec)


async def logs(request: Request) -> Response:
    """The last lines that a model's engine wrote: `?tail=200`."""
    services, spec = services_of(request), _spec(request)
    _must_be_managed(spec)
    lines = await services.manager.entry(spec.id).control.logs(_tail(request))
    return Response("".join(f"{line}\n" for line in lines), media_type="text/plain; charset=utf-8")


def _tail(request: Request) -> int:
    text = request.query_params.get("tail", str(DEFAULT_TAIL))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_TAIL:
        raise InvalidRequest(f"tail must be a number from 1 to {MAX_TAIL}, not {text!r}.", field="tail")
    return int(text)


async def events(request: Request) -> Response:
    """Every transition of every model, as server-sent events `model`."""
    services = services_of(request)
    changes = _transitions(services)
    head = await until_left(request, anext(changes))
    return EventStream(head, changes, {})


def _spec(request: Request) -> ModelSpec:
    services, name = services_of(request), _name(request)
    split = services.registry.splits().get(name)
    if split is not None:
        raise InvalidRequest(
            f"`{name}` is split over several models.",
            field="model_id",
            hint=f"Name one: {', '.join(split.models)}.",
        )
    return services.generations.spec(name)


def _name(request: Request) -> str:
    if name := cut_name(str(request.path_params["model_id"])):
        return name
    raise ModelNotFound("The path names no model.", hint="Use /v1/models/{model_id}.")


def _must_be_managed(spec: ModelSpec) -> None:
    if not spec.managed:
        raise InvalidRequest(
            f"{spec.id} is run by somebody else: the gateway cannot load or unload it.",
            field="model_id",
            hint="Give it a `supervisor` or a `command` in the registry.",
        )


def _accepted(services: Services, spec: ModelSpec) -> Response:
    location = f"/v1/models/{spec.id}"
    return json_response(_model(services, spec), status=202, headers={"location": location})


def _model(services: Services, spec: ModelSpec) -> dict[str, Any]:
    view, entry = services.manager.view(spec.id), services.manager.entry(spec.id)
    splits, names = services.registry.splits(), services.registry.names()
    aliases = [name for name, target in names.items() if target == spec.id != name and name not in splits]
    row: dict[str, Any] = {
        "id": spec.id,
        "object": "model",
        "created": int(entry.created_at),
        "owned_by": "unified-llm-gateway",
        "name": spec.title,
        "family": spec.family,
        "engine": spec.engine,
        "languages": list(spec.languages),
        "aliases": aliases,
        "default": spec.id == services.registry.default(),
        "state": view.state.value,
        "since": round(entry.changed_at, 3),
        "waiting": view.waiting,
        "in_flight": view.in_flight,
        "last_load_s": None if view.last_start_s is None else round(view.last_start_s, 3),
        "memory_bytes": view.footprint_bytes if spec.managed else None,
        "limits": spec.limits.model_dump(),
        "capabilities": services.generations.capabilities(spec),
    }
    if not spec.managed:
        row["replicas"] = [_replica(replica) for replica in entry.replicas.all]
    if view.reason:
        row["reason"] = view.reason
    if entry.progress is not None:
        row["progress"] = {"phase": entry.progress.phase, "fraction": entry.progress.fraction}
    return row


def _replica(replica: Replica) -> dict[str, Any]:
    row = {"url": shown(replica.url), "state": replica.state.value, "outstanding": replica.outstanding}
    return {**row, "reason": replica.reason} if replica.reason else row


_BEST_FIRST = (State.READY, State.DRAINING, State.STARTING, State.STOPPING, State.STOPPED, State.FAILED)


def _split(services: Services, name: str, alias: AliasSpec) -> dict[str, Any]:
    """A split alias as an entry of the list: clients offer to their users what they find there."""
    views = [services.manager.view(model) for model in alias.models]
    entries = [services.manager.entry(model) for model in alias.models]
    return {
        "id": name,
        "object": "model",
        "created": int(max(entry.created_at for entry in entries)),
        "owned_by": "unified-llm-gateway",
        "name": f"{name} ({', '.join(alias.models)})",
        "aliases": [],
        "default": services.registry.default_model == name,
        "state": min((view.state for view in views), key=_BEST_FIRST.index).value,
        "waiting": sum(view.waiting for view in views),
        "in_flight": sum(view.in_flight for view in views),
        **_meaning(alias),
    }


def _meaning(alias: AliasSpec) -> dict[str, Any]:
    """What an alias means, in the registry's words."""
    said: dict[str, Any] = {"to": alias.to} if alias.split is None else {"split": alias.split}
    if alias.split is not None:
        said["sticky"] = alias.sticky
    return {**said, "fallback": list(alias.fallback)}


async def _transitions(services: Services) -> AsyncGenerator[bytes]:
    """The states as they are, in one piece, then every change; nothing is missed between the two."""
    async with aclosing(services.manager.events.listen(services.settings.heartbeat_s)) as heard:
        first = asyncio.ensure_future(anext(heard, None))
        try:
            await asyncio.sleep(0)  # it listens from its first step on
            yield _states(services)
            yield _change(await first)
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        async for event in heard:
            yield _change(event)


def _states(services: Services) -> bytes:
    at = round(time.time(), 3)
    views = [services.manager.view(spec.id) for spec in services.registry.models]
    rows = [
        {"model_id": spec.id, "state": view.state.value, "at": at}
        for spec, view in zip(services.registry.models, views, strict=True)
    ]
    return b"".join(encode_event("model", to_json(row)) for row in rows)


def _change(event: ModelEvent | None) -> bytes:
    return encode_comment("") if event is None else encode_event("model", to_json(event))
