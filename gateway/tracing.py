"""OpenTelemetry traces: a span for each request, and one for each stage of its way.

Nothing of OpenTelemetry is imported unless traces are asked for. The stages' spans are made when the answer
has left, of times that are measured anyway; a thread of the SDK's sends them in batches. When the collector
does not keep up, spans are lost, never requests. Neither prompts nor answers are ever in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from gateway import __version__
from gateway.metrics import Metrics
from gateway.settings import Settings, SettingsError
from gateway.trail import Stage, Trail

STANDARD: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
LAST_SPANS_S: Final = 3.0
"""At the end, the last spans have this long to leave."""
_CHAT: Final = frozenset({"chat_completions", "messages"})


def tracing_for(settings: Settings, metrics: Metrics) -> Tracing | None:
    """None when nobody asks for traces. Raises SettingsError when what they need is not installed."""
    if not settings.otlp_endpoint and not os.environ.get(STANDARD):
        return None
    try:
        return Tracing(settings.otlp_endpoint, metrics)
    except ImportError as error:
        raise SettingsError(
            f"GATEWAY_OTLP_ENDPOINT or {STANDARD} asks for traces, but OpenTelemetry is not installed: "
            f"{error}. Install the extra `otel` (pip install 'unified-llm-gateway[otel]'), or unset them."
        ) from error


class Tracing:
    """Makes spans of trails."""

    def __init__(self, endpoint: str | None, metrics: Metrics) -> None:
        """``endpoint``: the collector's base address; None leaves it to OpenTelemetry's own variables.

        Raises ImportError.
        """
        self._trace = importlib.import_module("opentelemetry.trace")
        propagation = importlib.import_module("opentelemetry.trace.propagation.tracecontext")
        sdk = importlib.import_module("opentelemetry.sdk.trace")
        export = importlib.import_module("opentelemetry.sdk.trace.export")
        resources = importlib.import_module("opentelemetry.sdk.resources")
        otlp = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        own = {"service.version": __version__}
        if not os.environ.get("OTEL_SERVICE_NAME"):
            own["service.name"] = "unified-llm-gateway"
        exporter = otlp.OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None)
        sender = _Counting(exporter, export.SpanExportResult.SUCCESS, metrics)
        self._provider = sdk.TracerProvider(resource=resources.Resource.create(own), shutdown_on_exit=False)
        self._provider.add_span_processor(export.BatchSpanProcessor(sender))
        self._tracer = self._provider.get_tracer("gateway", __version__)
        self._propagator = propagation.TraceContextTextMapPropagator()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send the last spans as the block ends, if they leave soon."""
        try:
            yield
        finally:
            await _in_a_thread(self._provider.shutdown, LAST_SPANS_S)

    def begin(self, trail: Trail, headers: Mapping[str, str], method: str, path: str) -> Any:
        """The request's span, below the client's. ``trail`` learns what engines are to be told."""
        outer = self._propagator.extract(headers)
        about = {"http.request.method": method, "url.path": path}
        server = self._trace.SpanKind.SERVER
        span = self._tracer.start_span(f"{method} {path}", context=outer, kind=server, attributes=about)
        onward: dict[str, str] = {}
        self._propagator.inject(onward, context=self._trace.set_span_in_context(span, outer))
        trail.headers = onward
        trail.traced = span.is_recording()
        return span

    def end(self, span: Any, trail: Trail, route: str, status: int) -> None:
        """The answer has left: name the request's span, and make those of its stages."""
        now = time.perf_counter()
        if trail.stages:
            trail.stage("encode", max(stage.ended for stage in trail.stages), now)
            operation = "chat" if route in _CHAT else "text_completion"
            span.update_name(f"{operation} {trail.model}")
            span.set_attributes(
                {
                    "gen_ai.operation.name": operation,
                    "gen_ai.response.model": trail.model,
                    **trail.attributes,
                }
            )
        if status:
            span.set_attribute("http.response.status_code", status)
        span.set_attribute("http.route", route)
        self._stages(span, trail.stages, now)
        failed = next((stage.error for stage in trail.stages if stage.error), None)
        if failed is not None or status >= 500:
            self._failed(span, failed or str(status))
        span.end()

    def _stages(self, parent: Any, stages: Sequence[Stage], now: float) -> None:
        context, epoch = self._trace.set_span_in_context(parent), time.time() - now
        for stage in stages:
            begun, ended = round((epoch + stage.begun) * 1e9), round((epoch + stage.ended) * 1e9)
            span = self._tracer.start_span(stage.name, context=context, start_time=begun)
            if stage.error is not None:
                self._failed(span, stage.error)
            span.end(ended)

    def _failed(self, span: Any, kind: str) -> None:
        span.set_attribute("error.type", kind)
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR))


class _Counting:
    """An exporter around OpenTelemetry's own: counts the spans that it could not deliver."""

    def __init__(self, exporter: Any, success: object, metrics: Metrics) -> None:
        self._exporter = exporter
        self._success = success
        self._lost = metrics.counter("gateway_metrics_dropped_total", why="spans")
        self.shutdown = exporter.shutdown
        self.force_flush = exporter.force_flush

    def export(self, spans: Sequence[object]) -> object:
        result = self._exporter.export(spans)
        if result is not self._success:
            self._lost.add(len(spans))
        return result


async def _in_a_thread(work: Any, timeout_s: float) -> None:
    """Run what may block and wait no longer than that: asyncio's own threads would be waited for."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with contextlib.suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="last-spans", daemon=True).start()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await done.wait()
