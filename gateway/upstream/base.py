"""What every kind of engine can be asked, and how its failures are told apart.

One file per kind (``tgi.py`` …) fulfils ``EngineClient``; everything above speaks to this protocol only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Literal, Protocol

from gateway.errors import EngineError, EngineTimeout, ModelUnavailable
from gateway.schemas import Clocks, Completed, Conversation, Piece, Prompt, Token, TokenSpan

Clock = Literal["connect", "first_token", "between_tokens", "total"]
Capabilities = Mapping[str, bool]
"""By name (``config.Capabilities``); what is not in it is not known."""


class EngineClient(Protocol):
    """One kind of engine. ``url`` is the engine's base address, without a route (see ``address``).

    ``parameters`` are TGI's; those that are None are not sent. Every method raises only GatewayError
    (or lets a cancellation through), and no message holds the prompt.
    """

    def stream(
        self,
        url: str,
        prompt: Prompt,
        parameters: Mapping[str, object],
        clocks: Clocks,
        *,
        tokens: bool = True,
        raw: bool = False,
    ) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        """Generate, piece by piece.

        Entering sends the request and blocks until the first token is there: the moment of entry is the
        first-token instant, and everything the engine refuses is raised by then. Iterating yields each
        Token (special ones too) and then exactly one Completed; with ``tokens=False`` the Completed alone,
        much cheaper. With ``raw``, engines that speak TGI may give RawTokens instead of any Token but the
        last, as many at once as have come. Leaving, however it happens, closes the connection at once
        unless the answer was complete.

        Clocks count only while the engine is waited for: a caller that takes its time costs the engine
        nothing, except on the total clock, which is looked at before each read.
        """
        ...

    def chat(
        self,
        url: str,
        conversation: Conversation,
        parameters: Mapping[str, object],
        clocks: Clocks,
        *,
        logprobs: bool = False,
    ) -> AbstractAsyncContextManager[AsyncIterator[Token | Completed]]:
        """Like ``stream``, through the engine's own chat route and template, for what involves tools.

        Tokens with ``call`` are pieces of tool calls; the Completed has the whole calls, each with an id
        that is not empty and not in the conversation yet.
        """
        ...

    async def count_chat(
        self, url: str, conversation: Conversation, *, timeout_s: float = 10.0
    ) -> int | None:
        """How many tokens the engine makes of ``conversation``; None when it cannot tell."""
        ...

    def capabilities(self, url: str | None) -> Capabilities:
        """What the engine at ``url`` can do, as far as it is known without asking it."""
        ...

    async def generate(
        self, url: str, prompt: Prompt, parameters: Mapping[str, object], clocks: Clocks
    ) -> Completed:
        """Generate in one piece, for what cannot be streamed; ``details`` is filled.

        Only the connect and total clocks apply: nothing can be seen of the tokens on their way.
        """
        ...

    async def count_tokens(self, url: str, text: str, *, timeout_s: float = 10.0) -> int | None:
        """How many tokens ``text`` is as a prompt; None when this engine cannot count."""
        ...

    async def tokenize(self, url: str, text: str, *, timeout_s: float = 10.0) -> tuple[TokenSpan, ...] | None:
        """``text`` as the tokens of a prompt; None when this engine cannot tell."""
        ...

    async def healthy(self, url: str, timeout_s: float) -> None:
        """Return when the engine says that it can answer; raise with the reason otherwise."""
        ...

    async def info(self, url: str, timeout_s: float) -> Mapping[str, Any]:
        """What the engine says about itself, as it says it."""
        ...

    def forget(self, url: str) -> None:
        """There is no such address any more: nothing need be remembered of it."""
        ...


class SuspectEngineError(EngineError):
    """The engine broke off, or failed in the middle of its work: it may not recover by itself."""

    engine_suspect: ClassVar[bool] = True


class Truncated(SuspectEngineError):
    """The engine's answer ended before it was complete."""


class EngineUnreachable(ModelUnavailable):
    """Nothing answers at the engine's address, or what does says that the engine is not there.

    ``nothing_sent``: there was no connection, so the same request may be sent once more.
    """

    engine_suspect: ClassVar[bool] = True
    nothing_sent = False


class ClockTimeout(EngineTimeout):
    """One of the four clocks ran out; ``clock`` says which."""

    def __init__(self, clock: Clock, message: str, *, hint: str, engine_suspect: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.clock: Clock = clock
        self.engine_suspect = engine_suspect


def is_silence(error: BaseException) -> bool:
    """Whether the engine had the prompt and said nothing for too long."""
    return isinstance(error, ClockTimeout) and error.clock in ("first_token", "between_tokens")


def is_suspect(error: BaseException) -> bool:
    """Whether ``error`` is a reason to look at the engine's health rather than at the request."""
    return bool(getattr(error, "engine_suspect", False))
