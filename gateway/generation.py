"""The straight line: render → wait for a place → engine → answer, with a receipt of where the time went.

Owns nothing. A request goes down once and never back up; what can be refused at once is refused
before the first byte of the answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from gateway import parameters as rules
from gateway.answers import Answer, Receipt, Waiting
from gateway.config import ModelSpec, Registry
from gateway.errors import EngineError, GatewayError, ModelNotFound
from gateway.metrics import Metrics
from gateway.model_manager import ModelManager
from gateway.scenarios import ScenarioBook, messages_for
from gateway.schemas import Clocks, Completed, Language, Message, Piece, Prompt, RawTokens, Token
from gateway.templates import family, render
from gateway.tickets import Ticket
from gateway.upstream.base import EngineClient, EngineUnreachable, is_silence, is_suspect


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What every dialect turns its body into.

    Either ``inputs`` (through a scenario) or ``messages`` (a conversation). ``started`` is the instant,
    on the monotonic clock, at which the request reached the gateway.
    """

    model: str | None
    inputs: str | None
    messages: tuple[Message, ...] | None
    parameters: Mapping[str, Any]
    started: float
    scenario: str | None = None
    language: Language | None = None
    allow_special_tokens: bool = False
    template_args: Mapping[str, str] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    stream: bool = False
    raw: bool = False
    """TGI's own bytes are welcome in a stream, where the engine writes them."""
    wait_s: float | None = None
    without: frozenset[str] = frozenset()
    """Parameters that are off, whatever the defaults of model and scenario say."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that has passed every check that needs no engine."""

    spec: ModelSpec
    prompt: Prompt
    parameters: dict[str, Any]


class Generations:
    """Takes requests down the line."""

    def __init__(
        self,
        registry: Registry,
        scenarios: ScenarioBook,
        manager: ModelManager,
        engines: Mapping[str, EngineClient],
        metrics: Metrics,
        heartbeat_s: float,
    ) -> None:
        self._registry = registry
        self._scenarios = scenarios
        self._manager = manager
        self._engines = engines
        self._metrics = metrics
        self._heartbeat_s = heartbeat_s

    def spec(self, name: str | None) -> ModelSpec:
        """The model behind a name or alias; the default one for None. Raises ModelNotFound."""
        wanted = self._registry.resolve(name) if name else self._registry.default()
        for spec in self._registry.models:
            if spec.id == wanted:
                return spec
        known = ", ".join(self._registry.names())
        raise ModelNotFound(
            f"There is no model `{name}`.", field="model_id", hint=f"Ask for one of: {known}."
        )

    def prepare(self, request: GenerationRequest) -> Prepared:
        """Everything that can be refused without an engine. Raises InvalidRequest and ModelNotFound."""
        spec = self.spec(request.model)
        scenario = self._scenarios.get(request.scenario)
        own = spec.parameters.model_dump(exclude_none=True)
        # The operator's word for this very model counts for more than a default that is meant for all.
        merged = rules.combine(scenario.parameters, own, request.parameters)
        merged = {name: value for name, value in merged.items() if name not in request.without}
        rules.check_together(merged, stream=request.stream)
        if request.messages is None and scenario.is_raw:
            return Prepared(spec, Prompt(request.inputs or ""), merged)
        messages = request.messages or messages_for(scenario, request.inputs or "", request.language)
        prompt = render(
            family(spec.family),
            messages,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
            allow_special_tokens=request.allow_special_tokens,
            template_args=request.template_args,
        )
        return Prepared(spec, prompt, merged)

    async def start(self, request: GenerationRequest) -> Generation:
        """Begin to answer. Whatever can be refused before the first byte is raised here.

        When the model can take the request now, this blocks until the first token is there. When it has
        to wait, this returns at once, and ``events`` says how the wait goes. The caller closes it.
        """
        generation = Generation(self, self.prepare(request), request)
        await generation.enter()
        return generation

    async def complete(self, request: GenerationRequest) -> Answer:
        """The whole answer. Waits for the model until the request's deadline."""
        generation = await self.start(request)
        try:
            return await generation.answer()
        finally:
            await generation.aclose()

    async def count_tokens(self, spec: ModelSpec, text: str) -> int | None:
        """How many tokens a prompt has; None when the engine is not in, or cannot count."""
        url = self._manager.url_if_ready(spec.id)
        if url is None:
            return None
        try:
            return await self._engines[spec.engine].count_tokens(url, text)
        except GatewayError:
            return None

    # What follows is for Generation, which lives in this module.

    async def ask(self, prepared: Prepared, request: GenerationRequest, *, waited_s: float = 0.0) -> Ticket:
        """Ask for a place. Raises Overloaded and ModelUnavailable."""
        spec = prepared.spec
        wait_s = min(request.wait_s or spec.timeouts.wait_s, spec.timeouts.wait_s)
        return await self._manager.ask(spec.id, wait_s=max(0.0, wait_s - waited_s))

    def engine(self, spec: ModelSpec) -> EngineClient:
        return self._engines[spec.engine]

    @property
    def metrics(self) -> Metrics:
        return self._metrics

    @property
    def heartbeat_s(self) -> float:
        return self._heartbeat_s


class Generation:
    """One request on its way. ``enter``, then ``events`` or ``answer``; ``aclose`` always."""

    def __init__(self, line: Generations, prepared: Prepared, request: GenerationRequest) -> None:
        self._line = line
        self.prepared = prepared
        self._request = request
        self._stack = AsyncExitStack()
        self._ticket: Ticket | None = None
        self._tokens: AsyncIterator[Piece] | None = None
        self._whole: Completed | None = None
        self._sent = self._first_token = 0.0
        self._outcome = "client_gone"
        self._asked_again = False
        self._queued_s = self._loaded_s = 0.0  # with a place that was lost again
        self._closed = False

    @property
    def spec(self) -> ModelSpec:
        return self.prepared.spec

    @property
    def waits(self) -> bool:
        """Whether the engine has not been called yet, so that the answer opens with a wait."""
        return not self._called

    async def enter(self) -> None:
        """Take a place, and call the engine if there is one already. Closes itself on failure."""
        try:
            self._stack.enter_context(self._line.metrics.open("gateway_generations_open", model=self.spec.id))
            self._ticket = await self._line.ask(self.prepared, self._request)
            if self._ticket.granted:
                await self._call_engine()
        except BaseException as error:
            await self.aclose(error)
            raise

    def events(self) -> AsyncGenerator[Waiting | Token | Answer]:
        """Waiting while there is a wait (at least every heartbeat), each Token, then one Answer."""
        return cast("AsyncGenerator[Waiting | Token | Answer]", self.raw_events())

    async def raw_events(self) -> AsyncGenerator[Waiting | Token | RawTokens | Answer]:
        """The same, for a request that says ``raw``."""
        async with self._closed_on_error():
            said: Waiting | None = None
            while not self._called:
                ticket = self._entered()
                if ticket.granted:
                    async for waiting in self._waiting_for_the_first_token():
                        yield waiting
                    continue
                waiting = Waiting(self.spec.id, ticket.outlook(), ticket.waited_s, ticket.progress)
                if said is None or waiting.is_news_after(said, self._line.heartbeat_s / 2):
                    yield waiting
                    said = waiting
                await ticket.wait(self._line.heartbeat_s / 2)
            async for event in self._pieces(self._entered()):
                yield self._answer(event) if isinstance(event, Completed) else event

    async def _waiting_for_the_first_token(self) -> AsyncIterator[Waiting]:
        """A stream that is open already does not fall silent for as long as a long prompt takes."""
        call = asyncio.create_task(self._call_engine())
        try:
            while not (await asyncio.wait([call], timeout=self._line.heartbeat_s / 2))[0]:
                ticket = self._entered()
                yield Waiting(self.spec.id, ticket.outlook(), ticket.waited_s, None)
            await call
        finally:
            if not call.done():
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)

    async def answer(self) -> Answer:
        """The Answer alone."""
        try:
            return await self._collected()
        except BaseException as error:
            await self.aclose(error)
            raise

    async def _collected(self) -> Answer:
        while not self._called:
            ticket = self._entered()
            if ticket.granted:
                await self._call_engine()
            else:
                await ticket.wait(None)
        async for event in self._pieces(self._entered()):
            if isinstance(event, Completed):
                return self._answer(event)
        raise EngineError("The engine ended its answer without saying that it was complete.")

    def cut(self, text: str, completion_tokens: int, prompt_tokens: int | None) -> Answer:
        """The Answer for a caller that has enough: what it has read counts as all. To be closed then."""
        return self._answer(Completed(text, "stop_sequence", completion_tokens, prompt_tokens, None))

    def _entered(self) -> Ticket:
        if self._ticket is None:
            raise RuntimeError("enter() comes first")
        return self._ticket

    @asynccontextmanager
    async def _closed_on_error(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException as error:
            await self.aclose(error)
            raise

    @property
    def _called(self) -> bool:
        return self._tokens is not None or self._whole is not None

    async def _call_engine(self) -> None:
        """Send the prompt and wait for the first token.

        An engine that ended a moment ago may not be known to be gone yet. Nothing was sent then, so the
        request asks for a place once more, and waits until the model is back.
        """
        try:
            await self._send(self._entered())
        except EngineUnreachable as error:
            if self._asked_again or not error.nothing_sent:
                raise
            self._asked_again = True
            await self._ask_again(self._entered())

    async def _ask_again(self, lost: Ticket) -> None:
        await lost.lost()
        lost.close()
        self._queued_s, self._loaded_s = lost.queue_s, lost.load_s
        self._ticket = await self._line.ask(self.prepared, self._request, waited_s=lost.waited_s)

    async def _send(self, ticket: Ticket) -> None:
        spec, prepared = self.spec, self.prepared
        engine, clocks = self._line.engine(spec), _clocks(spec)
        self._sent = time.perf_counter()
        if rules.streamable(prepared.parameters):
            opened = engine.stream(
                ticket.url,
                prepared.prompt,
                prepared.parameters,
                clocks,
                tokens=self._request.stream,
                raw=self._request.raw,
            )
            self._tokens = await self._stack.enter_async_context(opened)
        else:
            self._whole = await engine.generate(ticket.url, prepared.prompt, prepared.parameters, clocks)
        self._first_token = time.perf_counter()

    async def _pieces(self, ticket: Ticket) -> AsyncIterator[Piece]:
        ticket.heard()
        if self._whole is not None:
            yield self._whole
        elif self._tokens is not None:
            async for event in self._tokens:
                ticket.heard()
                yield event

    def _answer(self, done: Completed) -> Answer:
        receipt = self._receipt(time.perf_counter())
        self._outcome = "ok"
        self._record(done, receipt)
        return Answer(
            model_id=self.spec.id,
            text=done.text,
            finish_reason=done.finish_reason,
            prompt_tokens=done.prompt_tokens,
            completion_tokens=done.completion_tokens,
            seed=done.seed,
            receipt=receipt,
            details=done.details if self.prepared.parameters.get("details") or self._whole else None,
        )

    def _receipt(self, finished: float) -> Receipt:
        ticket = self._ticket
        queue = self._queued_s + (ticket.queue_s if ticket else 0.0)
        load = self._loaded_s + (ticket.load_s if ticket else 0.0)
        prefill, decode = self._first_token - self._sent, finished - self._first_token
        total = finished - self._request.started
        queue_ms, load_ms, prefill_ms, decode_ms, total_ms = (
            round(1000 * seconds, 3) for seconds in (queue, load, prefill, decode, total)
        )
        rest = total_ms - queue_ms - load_ms - prefill_ms - decode_ms
        return Receipt(queue_ms, load_ms, prefill_ms, decode_ms, round(max(0.0, rest), 3), total_ms)

    def _record(self, done: Completed, receipt: Receipt) -> None:
        metrics, model = self._line.metrics, self.spec.id
        metrics.count("gateway_tokens_total", done.completion_tokens, model=model, kind="completion")
        metrics.count("gateway_tokens_total", done.prompt_tokens or 0, model=model, kind="prompt")
        metrics.observe("gateway_queue_seconds", receipt.queue_ms / 1000, model=model)
        metrics.observe("gateway_load_seconds", receipt.load_ms / 1000, model=model)
        metrics.observe("gateway_first_token_seconds", receipt.prefill_ms / 1000, model=model)
        metrics.observe("gateway_total_seconds", receipt.total_ms / 1000, model=model)

    async def aclose(self, error: BaseException | None = None) -> None:
        """Give everything back: the connection to the engine is closed, the place is free. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._stack.aclose()
        finally:
            self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        if isinstance(error, GatewayError):
            self._outcome = error.type
        elif isinstance(error, Exception):
            self._outcome = "internal_error"
        if self._ticket is not None:
            if error is not None and is_suspect(error):
                self._ticket.suspect(str(error), silent=is_silence(error))
            self._ticket.close()
        self._line.metrics.count("gateway_generations_total", model=self.spec.id, outcome=self._outcome)


def _clocks(spec: ModelSpec) -> Clocks:
    times = spec.timeouts
    return Clocks(
        connect_s=times.connect_s,
        first_token_s=times.first_token_s,
        between_tokens_s=times.between_tokens_s,
        total_s=times.total_s,
    )
