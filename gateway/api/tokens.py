"""A text as a model's engine splits it, for every dialect that shows tokens."""

from __future__ import annotations

from gateway.api.services import Services
from gateway.attempts import Attempts
from gateway.config import ModelSpec
from gateway.errors import InvalidRequest
from gateway.schemas import TokenSpan
from gateway.upstream.base import EngineUnreachable


async def tokens_of(services: Services, spec: ModelSpec, text: str) -> tuple[TokenSpan, ...]:
    """Ask the engine, and wait for it like a generation does: the model is brought in when it is away.

    Raises what refuses a place, what the engine refuses, and InvalidRequest when it has no tokenizer to ask.
    """
    try:
        found = await _asked(services, spec, text)
    except EngineUnreachable:
        # It ended a moment ago. By now that is known, so this waits until it is back.
        found = await _asked(services, spec, text)
    if found is None:
        raise InvalidRequest(
            f"The engine of {spec.id} does not say how it splits a text.",
            hint="Ask a model whose engine is TGI.",
        )
    return found


async def _asked(services: Services, spec: ModelSpec, text: str) -> tuple[TokenSpan, ...] | None:
    ticket = await services.manager.ask(spec.id, wait_s=spec.timeouts.wait_s)
    try:
        while not ticket.granted:
            await ticket.wait(None)
        engine = services.generations.engine(spec)
        attempts = Attempts(spec, services.metrics)
        return await attempts.at(ticket, lambda url: engine.tokenize(url, text))
    except EngineUnreachable:
        await ticket.lost()
        raise
    finally:
        ticket.close()
