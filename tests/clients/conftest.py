"""A gateway for unmodified clients, and environments for those that the tests' own one cannot hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import Running, free_port, model, owned, start_echo, start_gateway, until

from gateway.engine.weights import Q4_1_FILE, cache_folder

HERE = Path(__file__).parent
INSTALL_S = 110
CALLS_S = 90
# text-generation needs huggingface_hub < 1.0, and the tests' own environment has a current one.
LEGACY = ("text-generation==0.7.0", "huggingface_hub==0.36.2")
SLEEPERS = ("sleeper-sync", "sleeper-async")

Calls = Callable[[str, str], dict[str, Any]]


MODEL = cache_folder() / Q4_1_FILE
LLAMA_SERVER = [str(HERE.parent / "llama_server.py"), str(MODEL)]
CONTEXT = 256


@dataclass(frozen=True, slots=True)
class Behind:
    """A kind of engine behind the gateway, and what is particular to its answers."""

    kind: str
    words: list[str]
    """What it says to a prompt of HELLO."""
    sampled: str | None
    """The same when drawn with a seed; None where only the engine can know."""
    limits: tuple[int | None, int, int]
    """``max_input_tokens``, ``max_total_tokens`` and ``max_best_of`` of its ``/info``."""
    too_long: str
    """How it refuses a prompt that is too long."""
    grammar: str
    """How it refuses a regular expression."""

    @property
    def text(self) -> str:
        return "".join(self.words)


ENGINES = {
    "tgi": Behind(
        kind="tgi",
        words=["hello", " brave", " new", " world"],
        sampled=" new world hello brave",
        limits=(1024, 2048, 2),
        too_long="`inputs` must have less than 1024 tokens",
        grammar="grammar is not supported",
    ),
    # Several answers at once are beyond that API, and llama.cpp's server knows no regular expressions.
    "openai": Behind(
        kind="openai",
        words=[" hello", " brave", " new", " world"],
        sampled=None,
        limits=(None, CONTEXT, 1),
        too_long="exceeds the available context",
        grammar="a regex cannot be used with an engine of kind openai",
    ),
}
_NO_MODEL = pytest.mark.skipif(not MODEL.is_file(), reason="the small model is not there: make fetch-model")


@pytest.fixture(
    scope="session", params=["tgi", pytest.param("openai", marks=[pytest.mark.weights, _NO_MODEL])]
)
def behind(request: pytest.FixtureRequest) -> Behind:
    return ENGINES[request.param]


class Outcome(dict[str, Any]):
    """What a call came to in a client's own process. A failed one says how, once its value is asked for."""

    def __missing__(self, name: str) -> Any:
        raise AssertionError(f"no {name!r} in {dict(self)}")


class BrokenEngine(BaseHTTPRequestHandler):
    """An engine of either kind on a bad day: the prompt says what goes wrong."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(200, b'{"object":"list","data":[{"id":"m","object":"model","owned_by":"llamacpp"}]}')

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = body.get("inputs", body.get("prompt"))
        if asked == "full":
            self._answer(429, b'{"error":"Model is overloaded","error_type":"overloaded"}')
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        is_tgi = "inputs" in body
        self._event(TGI_PIECE if is_tgi else OPENAI_PIECE)
        if asked == "fail":
            self._event(TGI_FAILURE if is_tgi else OPENAI_FAILURE)
        if asked == "hang":
            self.rfile.read(1)  # until the gateway has had enough

    def _event(self, body: object) -> None:
        self.wfile.write(b"data: " + json.dumps(body).encode() + b"\n\n")
        self.wfile.flush()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


TGI_PIECE = {
    "index": 1,
    "token": {"id": 1, "text": "so", "logprob": -0.5, "special": False},
    "generated_text": None,
    "details": None,
}
TGI_FAILURE = {
    "error": "Request failed during generation: Server error: CUDA out of memory",
    "error_type": "generation",
}
OPENAI_FAILURE = {"error": {"message": "CUDA out of memory", "type": "server_error", "code": 500}}
OPENAI_PIECE = {"choices": [{"index": 0, "text": "so", "finish_reason": None}]}


@pytest.fixture(scope="session")
def broken_engine() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BrokenEngine)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def tgi_gateway(
    behind: Behind, broken_engine: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """Models: ``echo`` (alias ``mirror``), two that have to come in first, and ``broken``."""
    folder = tmp_path_factory.mktemp("clients")
    with _echo(folder) if behind.kind == "tgi" else _llama() as url:
        broken = model(broken_engine, id="broken", timeouts={"between_tokens_s": 0.5})
        records = [model(url, aliases=["mirror"]), broken, *map(SLEEPS[behind.kind], SLEEPERS)]
        registry = {"models": [{**record, "engine": behind.kind} for record in records]}
        running = start_gateway(folder, registry, heartbeat_s=0.2)
        yield running
        running.stop()


@contextmanager
def _echo(folder: Path) -> Iterator[str]:
    engine = start_echo(folder)
    yield engine.url
    engine.stop()


@contextmanager
def _llama() -> Iterator[str]:
    port = free_port()
    # Spinning threads collapse as soon as another process wants the processor.
    env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, *LLAMA_SERVER, str(port), "2", str(CONTEXT)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    assert process.stdout is not None
    assert process.stdout.readline(), f"it ended with {process.wait()}"
    yield f"http://127.0.0.1:{port}"
    process.communicate(timeout=20)


def _sleeping_llama(name: str) -> dict[str, Any]:
    command = ["{python}", *LLAMA_SERVER, "{port}", "1", str(CONTEXT), "stay"]
    return {**owned(name), "command": command}


SLEEPS: dict[str, Callable[[str], dict[str, Any]]] = {
    "tgi": lambda name: owned(name, load_s=1),
    "openai": _sleeping_llama,
}


@pytest.fixture(scope="session")
def tgi_calls(tgi_gateway: Running, tmp_path_factory: pytest.TempPathFactory) -> Calls:
    """Run one of the scripts beside this file with an interpreter, while the sleepers are away."""
    home = tmp_path_factory.mktemp("home")

    def call(python: str, script: str) -> dict[str, Any]:
        _send_to_sleep(tgi_gateway)
        quiet = {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
        command = [python, str(HERE / script), tgi_gateway.url]
        done = subprocess.run(
            command, env={**os.environ, **quiet}, capture_output=True, timeout=CALLS_S, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return dict(json.loads(done.stdout, object_hook=Outcome))

    return call


def _send_to_sleep(running: Running) -> None:
    for name in SLEEPERS:
        httpx.post(f"{running.url}/v1/models/{name}/unload", timeout=10)
        until(lambda name=name: running.get(f"/v1/models/{name}").json()["state"] == "stopped", name)


@pytest.fixture(scope="session")
def legacy_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with LEGACY, installed anew from the package index: without a network there is none."""
    folder = tmp_path_factory.mktemp("legacy")
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    try:
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, capture_output=True
        )
        subprocess.run(
            [*pip, "install", "--quiet", *LEGACY], check=True, capture_output=True, timeout=INSTALL_S
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the package index did not give {' and '.join(LEGACY)} within {INSTALL_S} s")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{' and '.join(LEGACY)} cannot be installed: {error.stderr.decode()[-400:]}")
    return str(python)
