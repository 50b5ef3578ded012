"""Finds out what answers at the address of an engine behind OpenAI's routes: which program, which model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx

from gateway.errors import EngineError
from gateway.schemas import Clocks
from gateway.upstream import openai_flavours
from gateway.upstream.bodies import json_body, not_understood, object_of
from gateway.upstream.calls import Call
from gateway.upstream.exchange import Answer, fetch
from gateway.upstream.openai_errors import error_of_answer
from gateway.upstream.openai_flavours import BY_OWNER, LLAMA_CPP, OLLAMA, OTHER
from gateway.upstream.openai_request import Served

MODELS: Final = "/v1/models"
NO_SUCH_ROUTE: Final = frozenset({404, 405, 501})


@dataclass(frozen=True, slots=True)
class Place:
    """An address as the registry has it: the engine's own, or that of one of its models.

    ``http://engine:8000``, ``http://engine:8000/v1`` and ``http://engine:8000/v1/models/NAME`` are the same
    engine; the last one says which model is meant where there are several.
    """

    base: str
    model: str | None

    @classmethod
    def of(cls, url: str) -> Place:
        where, sign, name = url.partition("#")  # see ``address``
        base, found, model = where.rstrip("/").partition(f"{MODELS}/")
        if not found:
            base = base.removesuffix(MODELS).removesuffix("/v1")
        return cls(base.rstrip("/") + sign + name, model or None)


async def ask(client: httpx.AsyncClient, place: Place, clocks: Clocks) -> Served:
    """Blocks for one to three small requests. Raises GatewayError."""
    call = Call("GET", place.base, MODELS)
    answer = await fetch(client, call, clocks)
    if answer.status in NO_SUCH_ROUTE:
        return Served(OTHER, place.model, None, {})
    if answer.status != httpx.codes.OK:
        raise error_of_answer(answer, call.address)
    card = _card(_cards(answer, call), place, call)
    flavour = BY_OWNER.get(str(card.get("owned_by")), OTHER)
    if flavour is OTHER and await _is_ollama(client, place, clocks):
        flavour = OLLAMA
        await _check_template(client, place, str(card["id"]), clocks)
    return Served(flavour, str(card["id"]), _context(card), card)


async def with_tools(client: httpx.AsyncClient, place: Place, served: Served, clocks: Clocks) -> Served:
    """``served``, with the answer to whether its chat template knows tools, where that can be asked."""
    if served.tools is not None or served.flavour is not LLAMA_CPP:
        return served
    return replace(served, tools=await _template_has_tools(client, place, clocks))


def capabilities(served: Served) -> dict[str, bool]:
    """What the program can do, and with tools its model's chat template, too."""
    known = openai_flavours.capabilities(served.flavour)
    return known if served.tools is None else {**known, "tools": served.tools}


async def _template_has_tools(client: httpx.AsyncClient, place: Place, clocks: Clocks) -> bool | None:
    """llama.cpp leaves tools out without a word where the template has no place for them."""
    call = Call("GET", place.base, "/props")
    answer = await fetch(client, call, clocks)
    if answer.status != httpx.codes.OK:
        return None
    knows = object_of(answer.body, call).get("chat_template_caps")
    return bool(knows.get("supports_tools")) if isinstance(knows, dict) else None


def _cards(answer: Answer, call: Call) -> list[dict[str, Any]]:
    cards = object_of(answer.body, call).get("data")
    if not isinstance(cards, list) or not all(isinstance(one, dict) and "id" in one for one in cards):
        raise not_understood(call, TypeError("not a list of models"))
    return cards


def _card(cards: list[dict[str, Any]], place: Place, call: Call) -> dict[str, Any]:
    """The model that is meant. Adapters are left out, and names that stand for the same model are one."""
    if place.model is not None:
        wanted = {place.model, f"{place.model}:latest"}
        found = [one for one in cards if one["id"] in wanted]
    else:
        found = [one for one in cards if one.get("parent") is None]
        if found and len({one.get("root") or one["id"] for one in found}) == 1:
            found = found[:1]
    if len(found) == 1:
        return found[0]
    names = ", ".join(str(one["id"]) for one in cards[:10]) or "none"
    what = f"no model `{place.model}`" if place.model else f"{len(found)} models"
    raise EngineError(
        f"{call.address} lists {what}; there are: {names}",
        hint=f"In the registry write the model's own address as url: {place.base}{MODELS}/NAME.",
    )


def _context(card: Mapping[str, Any]) -> int | None:
    """How many tokens fit in, prompt included: vLLM and SGLang call it one way, llama.cpp another."""
    meta = card.get("meta")
    tokens = card.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    return tokens if isinstance(tokens, int) else None


async def _is_ollama(client: httpx.AsyncClient, place: Place, clocks: Clocks) -> bool:
    answer = await fetch(client, Call("GET", place.base, "/api/version"), clocks)
    return answer.status == httpx.codes.OK and b'"version"' in answer.body


async def _check_template(client: httpx.AsyncClient, place: Place, model: str, clocks: Clocks) -> None:
    """Ollama wraps every prompt in the model's template, and ours have been through one already."""
    call = Call("POST", place.base, "/api/show", json_body({"model": model}))
    answer = await fetch(client, call, clocks)
    if answer.status != httpx.codes.OK:
        raise error_of_answer(answer, call.address)
    template = "".join(str(object_of(answer.body, call).get("template", "")).split())
    if template not in {"", "{{.Prompt}}", "{{.Prompt}}{{.Response}}"}:
        raise EngineError(
            f"Ollama would put the prompt for {model} into a second template",
            hint="Make a model of it whose Modelfile says TEMPLATE {{ .Prompt }}, and name that one.",
        )
