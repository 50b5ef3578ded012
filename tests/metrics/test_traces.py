"""Traces: spans that a real receiver decodes, and whose stages make up the request."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import Running, free_port, model, start_gateway, until
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
STAGES = ("parse", "render", "queue", "prefill", "decode", "encode")
SECRET = "the prompt that nobody may see"


@dataclass(slots=True)
class Receiver:
    """An OTLP collector: keeps the spans, by name."""

    port: int
    spans: list[Any] = field(default_factory=list)
    resources: list[Any] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        self.raw.append(body)
        asked = ExportTraceServiceRequest.FromString(body)
        for resource in asked.resource_spans:
            self.resources.append(resource.resource)
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


@dataclass(slots=True)
class Engine:
    """Answers as TGI does, and remembers the headers of generations."""

    port: int
    headers: list[dict[str, str]] = field(default_factory=list)


def _serve(post: Any) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            kind, answer = post(body, {name.lower(): value for name, value in self.headers.items()})
            self._answer(kind, answer)

        def do_GET(self) -> None:
            self._answer("application/json", b"{}")

        def _answer(self, kind: str, answer: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", free_port()), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    received = Receiver(0)

    def post(body: bytes, _: dict[str, str]) -> tuple[str, bytes]:
        received.take(body)
        return "application/x-protobuf", b""

    server = _serve(post)
    received.port = server.server_address[1]
    yield received
    server.shutdown()
    server.server_close()


EVENTS = (
    b'data:{"token":{"id":1,"text":"Hi","logprob":-0.1,"special":false},"generated_text":null}\n\n'
    b'data:{"token":{"id":2,"text":"!","logprob":-0.1,"special":false},"generated_text":"Hi!",'
    b'"details":{"finish_reason":"length","generated_tokens":2,"seed":null,"input_length":5}}\n\n'
)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    seen = Engine(0)

    def post(_: bytes, headers: dict[str, str]) -> tuple[str, bytes]:
        seen.headers.append(headers)
        return "text/event-stream", EVENTS

    server = _serve(post)
    seen.port = server.server_address[1]
    yield seen
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def traced(receiver: Receiver, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    registry = {"models": [model(f"http://127.0.0.1:{engine.port}", id="qwen2")]}
    folder = tmp_path_factory.mktemp("traced")
    running = start_gateway(folder, registry, otlp_endpoint=f"http://127.0.0.1:{receiver.port}")
    body = {"inputs": SECRET, "parameters": {"max_new_tokens": 2, "temperature": 0.5}}
    headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=1"}
    answer = httpx.post(f"{running.url}/v1/generate", json=body, headers=headers, timeout=20)
    assert answer.status_code == httpx.codes.OK
    refused = httpx.post(f"{running.url}/v1/generate", json={"inputs": 1}, timeout=20)
    assert refused.is_client_error
    running.stop()  # the last spans leave with it
    yield running
    running.stop()


def attributes(span: Any) -> dict[str, Any]:
    found = {}
    for pair in span.attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        found[pair.key] = [v.string_value for v in value.values] if kind == "array_value" else value
    return found


def test_a_request_is_a_span_below_its_clients(traced: Running, receiver: Receiver) -> None:
    (request,) = receiver.named("text_completion qwen2")
    assert request.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == PARENT
    assert request.kind == 2  # server
    told = attributes(request)
    assert told["gen_ai.operation.name"] == "text_completion"
    assert told["gen_ai.request.model"] == told["gen_ai.response.model"] == "qwen2"
    assert told["gen_ai.request.max_tokens"] == 2
    assert told["gen_ai.request.temperature"] == 0.5
    assert told["gen_ai.usage.input_tokens"] == 5
    assert told["gen_ai.usage.output_tokens"] == 2
    assert told["gen_ai.response.finish_reasons"] == ["length"]
    assert told["http.response.status_code"] == 200
    names = {pair.key: pair.value.string_value for pair in receiver.resources[0].attributes}
    assert names["service.name"] == "unified-llm-gateway"


def test_its_stages_follow_each_other_within_it(traced: Running, receiver: Receiver) -> None:
    (request,) = receiver.named("text_completion qwen2")
    below = {span.name: span for span in receiver.spans if span.parent_span_id == request.span_id}
    assert set(below) == set(STAGES)
    stages = [below[name] for name in STAGES]
    for stage in stages:
        assert stage.start_time_unix_nano <= stage.end_time_unix_nano
    ordered = [stage.start_time_unix_nano for stage in stages]
    assert ordered == sorted(ordered)
    # The wall clock and the monotonic one are read one after the other.
    slack_ns = 5_000_000
    assert stages[0].start_time_unix_nano >= request.start_time_unix_nano - slack_ns
    assert stages[-1].end_time_unix_nano <= request.end_time_unix_nano + slack_ns


def test_the_engine_is_told_of_the_requests_span(traced: Running, receiver: Receiver, engine: Engine) -> None:
    (request,) = receiver.named("text_completion qwen2")
    (headers,) = engine.headers
    assert headers["traceparent"] == f"00-{TRACE}-{request.span_id.hex()}-01"
    assert headers["tracestate"] == "vendor=1"


def test_a_refused_request_is_a_span_without_stages(traced: Running, receiver: Receiver) -> None:
    (request,) = receiver.named("POST /v1/generate")
    assert attributes(request)["http.response.status_code"] == 422
    assert request.parent_span_id == b""


def test_no_prompt_is_in_any_span(traced: Running, receiver: Receiver) -> None:
    assert receiver.raw
    assert not any(SECRET.encode() in body for body in receiver.raw)


def test_nothing_that_makes_or_sends_spans_is_imported_unless_asked_for() -> None:
    """FastAPI imports the bare API where it is installed."""
    lines = (
        "import sys",
        "from pathlib import Path",
        "from gateway.cli import load_registry",
        "from gateway.settings import Settings",
        "from gateway.main import create_app",
        "create_app(Settings(), load_registry(Path('models/local.yaml')))",
        "ours = ('opentelemetry.sdk', 'opentelemetry.exporter')",
        "sys.exit(any(name.startswith(ours) for name in sys.modules))",
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=root, check=False)
    assert done.returncode == 0


def test_without_the_extra_the_start_says_what_to_install(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    hidden = "import sys\nsys.modules['opentelemetry.sdk'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(hidden)
    env = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "GATEWAY_OTLP_ENDPOINT": "http://127.0.0.1:4318",
        "GATEWAY_CONFIG": str(root / "models" / "local.yaml"),
        "GATEWAY_RUN_DIR": str(tmp_path),
        "GATEWAY_PORT": str(free_port()),
    }
    command = [sys.executable, "-m", "gateway", "serve"]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "unified-llm-gateway[otel]" in done.stderr
    assert "Traceback" not in done.stderr


def test_spans_that_no_collector_takes_hold_nothing_up(engine: Engine, tmp_path: Path) -> None:
    registry = {"models": [model(f"http://127.0.0.1:{engine.port}", id="qwen2")]}
    nowhere = f"http://127.0.0.1:{free_port()}"
    running = start_gateway(tmp_path, registry, otlp_endpoint=nowhere)
    try:
        answer = httpx.post(f"{running.url}/v1/generate", json={"inputs": "a"}, timeout=20)
        assert answer.status_code == httpx.codes.OK
    finally:
        running.stop()
    until(lambda: running.process.poll() is not None, "the gateway to end", 10)
