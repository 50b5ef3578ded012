"""A text as a model's engine splits it, for every dialect that shows tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from gateway.api.services import Services
from gateway.attempts import Attempts
from gateway.config import ModelSpec
from gateway.errors import InvalidRequest
from gateway.schemas import Conversation, Prompt, TokenSpan
from gateway.upstream.base import EngineClient, EngineUnreachable

Found = TypeVar("Found")
Ask = Callable[[EngineClient, str], Awaitable[Found | None]]
"""What to ask an engine at its address; None when it cannot tell."""


async def tokens_of(services: Services, spec: ModelSpec, text: str) -> tuple[TokenSpan, ...]:
    """Ask the engine, and wait for it like a generation does: the model is brought in when it is away.

    Raises what refuses a place, what the engine refuses, and InvalidRequest when it has no tokenizer to ask.
    """
    return await _asked(services, spec, lambda engine, url: engine.tokenize(url, text))


async def count_of(services: Services, spec: ModelSpec, prompt: Prompt | Conversation) -> int:
    """How many tokens the model would read; asked, and refused, as with ``tokens_of``."""
    if isinstance(prompt, Prompt):
        return len(await tokens_of(services, spec, prompt.text))
    return await _asked(services, spec, lambda engine, url: engine.count_chat(url, prompt))


async def _asked(services: Services, spec: ModelSpec, ask: Ask[Found]) -> Found:
    able = services.generations.capabilities(spec)
    found = None
    if able["tokenise"] is not False:
        try:
            found = await _once(services, spec, ask)
        except EngineUnreachable:
            # It ended a moment ago. By now that is known, so this waits until it is back.
            found = await _once(services, spec, ask)
    if found is None:
        raise InvalidRequest(
            f"The engine of {spec.id} does not say how it splits a text.",
            hint="Ask a model whose engine is TGI.",
        )
    return found


async def _once(services: Services, spec: ModelSpec, ask: Ask[Found]) -> Found | None:
    ticket = await services.manager.ask(spec.id, wait_s=spec.timeouts.wait_s)
    try:
        while not ticket.granted:
            await ticket.wait(None)
        engine = services.generations.engine(spec)
        attempts = Attempts(spec, services.metrics)
        return await attempts.at(ticket, lambda url: ask(engine, url))
    except EngineUnreachable:
        await ticket.lost()
        raise
    finally:
        ticket.close()
