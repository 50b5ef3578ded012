"""What requests on the straight line share: who answers, a place to wait, the engine, and the figures.

Owns nothing of any request.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway import capabilities
from gateway.config import ModelSpec, Registry
from gateway.errors import GatewayError
from gateway.experiments import Experiments, Load
from gateway.journey import FigureBook
from gateway.metrics import Metrics
from gateway.model_manager import ModelManager
from gateway.preparing import GenerationRequest, Prepared, Preparer
from gateway.routing import Asked, Routing
from gateway.scenarios import ScenarioBook
from gateway.scheduler import State
from gateway.schemas import Conversation, Prompt
from gateway.tickets import Ticket
from gateway.trail import current
from gateway.upstream.base import EngineClient


class Line:
    """What every request has in common on its way, and asks for by name."""

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
        self.preparer = Preparer(scenarios, self.capabilities)
        self._manager = manager
        self._engines = engines
        self._metrics = metrics
        self._heartbeat_s = heartbeat_s
        self.routing = Routing(registry, manager)
        self.experiments = Experiments(registry)
        self.figures = FigureBook(metrics)

    def spec(self, name: str | None) -> ModelSpec:
        """The model behind a name, of a split the likeliest; for None the default. Raises ModelNotFound."""
        return self.routing.peek(Asked(name)).spec

    def prepare(self, request: GenerationRequest) -> Prepared:
        """Everything that can be refused without an engine. Raises InvalidRequest and ModelNotFound."""
        spec = request.who.spec if request.who is not None else self.spec(request.model)
        current().about(spec.id)
        return self.preparer.prepare(spec, request)

    def capabilities(self, spec: ModelSpec) -> dict[str, bool | None]:
        """What a model can do: true, false, or None where nobody knows yet."""
        known = self._engines[spec.engine].capabilities(self._manager.url_if_ready(spec.id))
        return capabilities.of(spec, known)

    async def count_tokens(self, spec: ModelSpec, prompt: Prompt | Conversation) -> int | None:
        """How many tokens a prompt has; None when the engine is not in, or cannot count."""
        url = self._manager.url_if_ready(spec.id)
        if url is None:
            return None
        engine = self._engines[spec.engine]
        try:
            if isinstance(prompt, Conversation):
                return await engine.count_chat(url, prompt)
            return await engine.count_tokens(url, prompt.text)
        except GatewayError:
            return None

    async def ask(self, prepared: Prepared, request: GenerationRequest, *, waited_s: float = 0.0) -> Ticket:
        """Ask for a place. Raises Overloaded and ModelUnavailable."""
        spec = prepared.spec
        wait_s = min(request.wait_s or spec.timeouts.wait_s, spec.timeouts.wait_s)
        # What it says is what a request is known by when it comes again: no client need do anything for it.
        mark = hash(prepared.prompt.text)
        return await self._manager.ask(spec.id, wait_s=max(0.0, wait_s - waited_s), mark=mark)

    def last_load(self, spec: ModelSpec) -> Load:
        entry = self._manager.entry(spec.id)
        return Load(entry.ready_at, max(0.0, entry.ready_at - entry.loading_since))

    @property
    def engines(self) -> Mapping[str, EngineClient]:
        """The clients of all kinds of engines."""
        return self._engines

    def engine(self, spec: ModelSpec) -> EngineClient:
        return self._engines[spec.engine]

    def stands(self, spec: ModelSpec, ticket: Ticket | None) -> str:
        """Where a request is that has no answer yet."""
        if ticket is not None and ticket.granted:
            return "prefill"
        if self._manager.view(spec.id).state is State.FAILED:
            return "backoff"
        return "loading" if ticket is not None and ticket.outlook().phase == "loading" else "queued"

    @property
    def metrics(self) -> Metrics:
        return self._metrics

    @property
    def heartbeat_s(self) -> float:
        return self._heartbeat_s
