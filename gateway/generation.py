"""The straight line: render → wait for a place → engine → answer, with a receipt of where the time went.

Owns nothing. A request goes down once and never back up; what can be refused at once is refused
before the first byte of the answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import cast

from gateway import parameters as rules
from gateway.answers import Answer, Receipt, Waiting
from gateway.attempts import Attempts, outcome_of
from gateway.config import ModelSpec
from gateway.errors import EngineError, GatewayError
from gateway.experiments import Seen
from gateway.fallback import Succession
from gateway.journey import Ending, Waited, tell_asked
from gateway.line import Line
from gateway.preparing import GenerationRequest, Prepared
from gateway.routing import Asked, Who
from gateway.scheduler import Outlook
from gateway.schemas import Completed, Conversation, Piece, RawTokens, Token
from gateway.tickets import Ticket
from gateway.trail import current
from gateway.upstream.base import EngineUnreachable, is_silence, is_suspect

__all__ = ["Generation", "GenerationRequest", "Generations", "Prepared"]

logger = logging.getLogger("gateway.generation")


class Generations(Line):
    """Takes requests down the line."""

    async def start(self, request: GenerationRequest) -> Generation:
        """Begin to answer. Whatever can be refused before the first byte is raised here.

        When the model can take the request now, this blocks until the first token is there. When it has
        to wait, this returns at once, and ``events`` says how the wait goes. The caller closes it.
        """
        begun = time.perf_counter()
        if request.who is None:
            request = replace(request, who=self.routing.draw(Asked(request.model)))
        prepared = self.prepare(request)
        tell_asked(current(), request.started, begun, prepared.spec.id, prepared.parameters)
        generation = Generation(self, prepared, request)
        await generation.enter()
        return generation

    async def complete(self, request: GenerationRequest) -> Answer:
        """The whole answer. Waits for the model until the request's deadline."""
        generation = await self.start(request)
        try:
            return await generation.answer()
        finally:
            await generation.aclose()


class Generation:
    """One request on its way. ``enter``, then ``events`` or ``answer``; ``aclose`` always."""

    def __init__(self, line: Line, prepared: Prepared, request: GenerationRequest) -> None:
        self._line = line
        self.prepared = prepared
        self._request = request
        self._succession = Succession(request, request.who or Who(prepared.spec), line.prepare)
        self._stack = AsyncExitStack()
        self._attempts = Attempts(prepared.spec, line.metrics)
        self._attempt = AsyncExitStack()  # what the call that is under way holds open
        self._ticket: Ticket | None = None
        self._tokens: AsyncIterator[Piece] | None = None
        self._whole: Completed | None = None
        self._sent = self._first_token = 0.0
        self._journey = line.figures.journey()
        self._outcome = "client_gone"
        self._asked_again = False
        self._queued_s = self._loaded_s = 0.0  # with a place that was lost again
        self._given: Answer | None = None
        self._begun = request.begun
        self._closed = False

    @property
    def spec(self) -> ModelSpec:
        return self.prepared.spec

    @property
    def who(self) -> Who:
        """Who answers, as far as is known by now, and how that came about."""
        return self._succession.who

    @property
    def arm(self) -> str:
        """The model that was drawn in a split; ``none`` without one."""
        return self.who.origin.arm

    @property
    def waits(self) -> bool:
        """Whether the engine has not been called yet, so that the answer opens with a wait."""
        return not self._called

    async def enter(self) -> None:
        """Take a place, and call the engine if there is one already. Closes itself on failure."""
        try:
            self._count_in()
            self._take_over()
            while True:
                try:
                    ticket = await self._placed()
                    if ticket.granted:
                        await self._call_engine()
                except GatewayError as error:
                    await self._pass_on(error)
                else:
                    return
        except BaseException as error:
            await self.aclose(error)
            raise

    def events(self) -> AsyncGenerator[Waiting | Token | Answer]:
        """Waiting while there is a wait (at least every heartbeat), each Token, then one Answer."""
        return cast("AsyncGenerator[Waiting | Token | Answer]", self.raw_events())

    async def raw_events(self) -> AsyncGenerator[Waiting | Token | RawTokens | Answer]:
        """The same, for a request that says ``raw``."""
        async with self._closed_on_error():
            while not self._called:
                try:
                    async with aclosing(self._until_called()) as waits:
                        async for waiting in waits:
                            yield waiting
                except GatewayError as error:
                    yield await self._pass_on(error)
            async for event in self._pieces(self._entered()):
                yield self._answer(event) if isinstance(event, Completed) else event

    async def _until_called(self) -> AsyncGenerator[Waiting]:
        said: Waiting | None = None
        while not self._called:
            ticket = await self._placed()
            if ticket.granted:
                async for waiting in self._waiting_for_the_first_token():
                    yield waiting
                continue
            waiting = Waiting(self.spec.id, ticket.outlook(), ticket.waited_s, ticket.progress)
            if said is None or waiting.is_news_after(said, self._line.heartbeat_s / 2):
                yield waiting
                said = waiting
            await ticket.wait(self._line.heartbeat_s / 2)

    async def _placed(self) -> Ticket:
        """The place, asked for if there is none. Who may fall back does not sit out a model's failure."""
        if self._ticket is None:
            self._ticket = await self._line.ask(self.prepared, self._request)
        if self._succession.has_more and not self._ticket.granted:
            self._line.routing.expect(self.spec)
        return self._ticket

    async def _pass_on(self, error: GatewayError) -> Waiting:
        """After ``error``, go on with whoever answers instead. Raises what is to be told when nobody does."""
        before = self.spec.id
        self._put_back(error)
        self.prepared = self._succession.next(error, self._sent or None)
        self._line.metrics.count("gateway_fallbacks_total", model=before, to=self.spec.id)
        await self._stack.aclose()
        self._attempts = Attempts(self.spec, self._line.metrics)
        self._count_in()
        outlook = Outlook("queued", 0, None)
        return Waiting(self.spec.id, outlook, self._succession.elapsed_s, None, self.who.origin)

    def _put_back(self, error: GatewayError) -> None:
        """End one try: the time that it took counts as waiting."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._loaded_s += ticket.load_s
            _give_back(ticket, error)
        self._queued_s = self._succession.elapsed_s - self._loaded_s
        self._asked_again = False

    def _take_over(self) -> None:
        """Go on with what was begun elsewhere: the place, and a try that failed."""
        if (begun := self._begun) is None:
            return
        self._ticket, self._sent, self._first_token = begun.ticket, begun.sent, begun.first_token
        if begun.first_token:
            self._journey.taken_over(self.spec.id, self.arm)

    def _count_in(self) -> None:
        self._stack.enter_context(self._line.metrics.open("gateway_generations_open", model=self.spec.id))
        self._stack.push_async_callback(self._attempt.aclose)

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
            try:
                ticket = await self._placed()
                await (self._call_engine() if ticket.granted else ticket.wait(None))
            except GatewayError as error:
                await self._pass_on(error)
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

        An engine that ended a moment ago may not be known to be gone yet, or may just take its last
        connections. It was not this request that ended it, which therefore asks for a place once more, and
        waits until the model is back. Where there are several engines, others have been tried by then, as
        far as that is allowed.
        """
        ticket = self._entered()
        begun, self._begun = self._begun, None
        try:
            if begun is None:
                self._sent = time.perf_counter()
                await self._attempts.at(ticket, self._send)
            else:
                self._journey.wrong(self.spec.id, begun.error)
                await self._attempts.go_on(begun, self._send)
        except EngineUnreachable as error:
            blameless = error.nothing_sent or ticket.was_in_doubt(self._sent)
            if self._asked_again or not blameless or ticket.has_replicas:
                raise
            self._asked_again = True
            self._line.metrics.count("gateway_retries_total", model=self.spec.id, why="unreachable")
            await self._ask_again(self._entered())

    async def _ask_again(self, lost: Ticket) -> None:
        await lost.lost()
        lost.close()
        self._queued_s += lost.queue_s
        self._loaded_s += lost.load_s
        self._ticket = await self._line.ask(self.prepared, self._request, waited_s=lost.waited_s)

    async def _send(self, url: str) -> None:
        prompt, parameters, asked = self.prepared.prompt, self.prepared.parameters, self._request
        engine, clocks = self._line.engine(self.spec), self._attempts.clocks()
        again = bool(self._first_token)
        if self._tokens is not None:
            await self._attempt.aclose()
        with self._journey.calling(self.spec.id):
            opened: AbstractAsyncContextManager[AsyncIterator[Piece]]
            if isinstance(prompt, Conversation):
                opened = engine.chat(url, prompt, parameters, clocks, logprobs=asked.logprobs)
                self._tokens = await self._attempt.enter_async_context(opened)
            elif rules.streamable(parameters):
                opened = engine.stream(url, prompt, parameters, clocks, tokens=asked.stream, raw=asked.raw)
                self._tokens = await self._attempt.enter_async_context(opened)
            else:
                self._whole = await engine.generate(url, prompt, parameters, clocks)
        self._first_token = time.perf_counter()
        if not again:
            self._journey.begun(self.spec.id, self.arm, self._waited(), streamed=self._whole is None)

    async def _pieces(self, ticket: Ticket) -> AsyncIterator[Piece]:
        """The answer as it comes. One that breaks off before its first piece begins anew elsewhere."""
        ticket.heard()
        if self._whole is not None:
            yield self._whole
        given = False
        while self._tokens is not None:
            try:
                with self._journey.calling(self.spec.id):
                    async for event in self._tokens:
                        ticket.heard()
                        given = True
                        if isinstance(event, Token):
                            self._journey.token()
                        elif isinstance(event, RawTokens):
                            self._journey.tokens(event.count)
                        yield event
            except GatewayError as error:
                if given:
                    raise
                await self._attempts.after(error, ticket, self._send)
            else:
                return

    def _answer(self, done: Completed) -> Answer:
        receipt = self._receipt(time.perf_counter())
        self._outcome = "ok"
        self._journey.ended(done, receipt.decode_ms / 1000)
        self._given = Answer(
            model_id=self.spec.id,
            text=done.text,
            finish_reason=done.finish_reason,
            prompt_tokens=done.prompt_tokens,
            completion_tokens=done.completion_tokens,
            seed=done.seed,
            receipt=receipt,
            details=done.details if self.prepared.parameters.get("details") or self._whole else None,
            origin=self.who.origin,
            tool_calls=done.tool_calls,
        )
        return self._given

    def _waited(self) -> Waited:
        ticket = self._ticket
        return Waited(
            queue_s=self._queued_s + (ticket.queue_s if ticket else 0.0),
            load_s=self._loaded_s + (ticket.load_s if ticket else 0.0),
            sent=self._sent,
            first_token=self._first_token,
        )

    def _receipt(self, finished: float) -> Receipt:
        waited = self._waited()
        prefill, decode = self._first_token - self._sent, finished - self._first_token
        total = finished - self._request.started
        return Receipt.of(
            queue_s=waited.queue_s, load_s=waited.load_s, prefill_s=prefill, decode_s=decode, total_s=total
        )

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
        # The place is still held: where it was can be told.
        where = "streaming" if self._called else self._line.stands(self.spec, self._ticket)
        waited = self._waited()
        self._journey.closed(Ending(self.spec.id, self.arm, self._outcome, where, error), waited)
        if self._ticket is not None:
            _give_back(self._ticket, error, answered=self._outcome == "ok")
        load = self._line.last_load(self.spec) if waited.load_s > 0 else None
        origin, streamed = self.who.origin, self._whole is None
        self._line.experiments.record(Seen(origin, self._outcome, self._given, streamed, load, waited.load_s))


def _give_back(ticket: Ticket, error: BaseException | None, *, answered: bool = False) -> None:
    ticket.left("answered" if answered else outcome_of(error))
    if error is not None and is_suspect(error):
        ticket.suspect(str(error), silent=is_silence(error))
    ticket.close()
