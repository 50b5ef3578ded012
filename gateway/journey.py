"""What one generation adds to the figures, on its way and at its end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from gateway.errors import EngineError, EngineTimeout, GatewayError, ModelUnavailable, Overloaded
from gateway.metrics import Metrics
from gateway.metrics_cells import Count, Spread
from gateway.schemas import Completed
from gateway.trail import NONE, Attribute, Trail, current
from gateway.upstream.base import ClockTimeout, EngineUnreachable, SuspectEngineError, Truncated


@dataclass(frozen=True, slots=True)
class Figures:
    """The series of one model and arm, looked up once."""

    model: str
    tokens_in: Count
    tokens_out: Count
    prompt_tokens: Spread
    tokens_per_second: Spread
    queue_s: Spread
    load_s: Spread
    first_token_s: Spread
    between_tokens_s: Spread

    def ended(self, done: Completed, counted: int, decode_s: float) -> None:
        """An answer is whole, of which ``counted`` tokens were noted as they came."""
        self.tokens_out.add(max(0, done.completion_tokens - counted))
        if done.prompt_tokens is not None:
            self.tokens_in.add(done.prompt_tokens)
            self.prompt_tokens.observe(done.prompt_tokens)
        if done.completion_tokens > 1 and decode_s > 0:
            self.tokens_per_second.observe((done.completion_tokens - 1) / decode_s)


class FigureBook:
    """All of them, as they come to be needed."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._known: dict[tuple[str, str], Figures] = {}

    def of(self, model: str, arm: str = NONE) -> Figures:
        found = self._known.get((model, arm))
        if found is None:
            found = self._known[model, arm] = self._look_up(model, arm)
        return found

    def _look_up(self, model: str, arm: str) -> Figures:
        metrics = self._metrics
        return Figures(
            model=model,
            tokens_in=metrics.counter("gateway_tokens_in_total", model=model, arm=arm),
            tokens_out=metrics.counter("gateway_tokens_out_total", model=model, arm=arm),
            prompt_tokens=metrics.spread("gateway_prompt_tokens", model=model),
            tokens_per_second=metrics.spread("gateway_tokens_per_second", model=model, arm=arm),
            queue_s=metrics.spread("gateway_queue_seconds", model=model),
            load_s=metrics.spread("gateway_load_seconds", model=model),
            first_token_s=metrics.spread("gateway_first_token_seconds", model=model, arm=arm),
            between_tokens_s=metrics.spread("gateway_between_tokens_seconds", model=model, arm=arm),
        )

    def journey(self) -> Journey:
        """For a new generation, within the request that is being answered."""
        return Journey(self._metrics, self, current())


@dataclass(frozen=True, slots=True)
class Waited:
    """Where a generation's time went: waits in seconds, instants on the monotonic clock or 0."""

    queue_s: float
    load_s: float
    sent: float
    first_token: float

    def tell(self, trail: Trail, error: str | None) -> None:
        """The stages of the way, as far as it was gone. The last of them has the error."""
        now = time.perf_counter()
        load_from = (self.sent or now) - self.load_s
        trail.stage("queue", load_from - self.queue_s, load_from, None if self.sent else error)
        if self.load_s > 0:
            trail.stage("load", load_from, self.sent or now)
        if self.sent:
            trail.stage("prefill", self.sent, self.first_token or now, None if self.first_token else error)
        if self.first_token:
            trail.stage("decode", self.first_token, now, error)


class Journey:
    """One generation on its way to an engine and back. Tokens are in the figures as they come."""

    __slots__ = ("_between", "_book", "_figures", "_last", "_metrics", "_out", "_tokens", "_trail")

    def __init__(self, metrics: Metrics, book: FigureBook, trail: Trail) -> None:
        self._metrics = metrics
        self._book = book
        self._trail = trail
        self._figures: Figures | None = None
        self._tokens = 0
        self._last = 0.0

    @contextmanager
    def calling(self, model: str) -> Iterator[None]:
        """Around what an engine is waited for: its failures are counted by kind."""
        try:
            yield
        except GatewayError as error:
            self.wrong(model, error)
            raise

    def wrong(self, model: str, error: GatewayError) -> None:
        """An engine was called, and this came of it."""
        if (kind := kind_of(error)) is not None:
            self._metrics.count("gateway_upstream_errors_total", model=model, kind=kind)

    def taken_over(self, model: str, arm: str) -> None:
        """Its first token came elsewhere, and its waits were noted there."""
        figures = self._figures = self._book.of(model, arm)
        self._between, self._out = figures.between_tokens_s.observe, figures.tokens_out

    def begun(self, model: str, arm: str, waited: Waited, *, streamed: bool) -> None:
        """The first token is there; or the whole answer, where the engine gives it in one piece."""
        figures, before = self._book.of(model, arm), self._figures
        self._figures, self._between, self._out = (
            figures,
            figures.between_tokens_s.observe,
            figures.tokens_out,
        )
        self._tokens = 0
        if figures is before:
            return  # the same once more: its waits are known
        figures.queue_s.observe(waited.queue_s)
        if waited.load_s > 0:
            figures.load_s.observe(waited.load_s)
        if streamed:
            figures.first_token_s.observe(waited.first_token - waited.sent)

    def token(self) -> None:
        """One token of a stream that has begun."""
        now = time.perf_counter()
        if self._tokens:
            self._between(now - self._last)
        self._last = now
        self._tokens += 1
        self._out.value += 1

    def tokens(self, count: int) -> None:
        """So many that have come at once: between them was no time."""
        self.token()
        for _ in range(count - 1):
            self._between(0.0)
        self._tokens += count - 1
        self._out.value += count - 1

    def ended(self, done: Completed, decode_s: float) -> None:
        """The answer is whole. Its tokens may have come several at once, or none before the end."""
        if (figures := self._figures) is None:
            return
        figures.ended(done, self._tokens, decode_s)
        if self._trail.traced:
            self._trail.tell(answered_attributes(done))

    def closed(self, ending: Ending, waited: Waited) -> None:
        """It is over, however it ended."""
        metrics, trail, model, outcome = self._metrics, self._trail, ending.model, ending.outcome
        metrics.count("gateway_generations_total", model=model, outcome=outcome)
        trail.about(model, ending.arm)
        waited.tell(trail, None if outcome == "ok" else outcome)
        if outcome == "ok":
            trail.answered = True
        elif outcome == "client_gone":
            trail.left = True
            metrics.count("gateway_cancelled_total", model=model, where=ending.where)
        else:
            trail.failed_with = ending.error.status if isinstance(ending.error, GatewayError) else 500


@dataclass(frozen=True, slots=True)
class Ending:
    """How a generation ended: ``ok``, ``client_gone`` or an error's type; and where it was by then."""

    model: str
    arm: str
    outcome: str
    where: str
    error: BaseException | None


def kind_of(error: GatewayError) -> str | None:
    """What an engine did wrong; None when it refused a request for good reason."""
    match error:
        case ClockTimeout():
            return f"{error.clock}_timeout"
        case EngineUnreachable():
            return "unreachable"
        case Truncated():
            return "truncated"
        case SuspectEngineError():
            return "broke_off"
        case EngineTimeout():
            return "timeout"
        case Overloaded():
            return "overloaded"
        case EngineError():
            return "error"
        case ModelUnavailable():
            return "unavailable"
    return None


def answered_attributes(done: Completed) -> dict[str, Attribute | None]:
    """What a trace says of an answer, under the names of OpenTelemetry's conventions. Never its text."""
    return {
        "gen_ai.usage.input_tokens": done.prompt_tokens,
        "gen_ai.usage.output_tokens": done.completion_tokens,
        "gen_ai.response.finish_reasons": (done.finish_reason,),
    }


def tell_asked(
    trail: Trail, started: float, parsed: float, model: str, parameters: Mapping[str, object]
) -> None:
    """What a trace says of a request that is ready to wait: model and settings, never the prompt."""
    if not trail.traced:
        return
    trail.stage("parse", started, parsed)
    trail.stage("render", parsed, time.perf_counter())
    chosen = {name: parameters.get(key) for name, key in _ASKED.items()}
    known = {name: value for name, value in chosen.items() if isinstance(value, int | float | str)}
    trail.tell({"gen_ai.request.model": model, **known})


_ASKED: Final = {
    "gen_ai.request.max_tokens": "max_new_tokens",
    "gen_ai.request.temperature": "temperature",
    "gen_ai.request.top_p": "top_p",
    "gen_ai.request.top_k": "top_k",
    "gen_ai.request.seed": "seed",
    "gen_ai.request.frequency_penalty": "frequency_penalty",
}
