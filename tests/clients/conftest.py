"""A gateway for unmodified clients, and environments for those that the tests' own one cannot hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import Running, model, owned, start_echo, start_gateway, until

HERE = Path(__file__).parent
INSTALL_S = 110
CALLS_S = 90
# text-generation needs huggingface_hub < 1.0, and the tests' own environment has a current one.
LEGACY = ("text-generation==0.7.0", "huggingface_hub==0.36.2")
SLEEPERS = ("sleeper-sync", "sleeper-async")

Calls = Callable[[str, str], dict[str, Any]]


class BrokenTgi(BaseHTTPRequestHandler):
    """TGI on a bad day: the prompt says what goes wrong."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(200, b"")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if body["inputs"] == "full":
            self._answer(429, b'{"error":"Model is overloaded","error_type":"overloaded"}')
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        token = {"id": 1, "text": "so", "logprob": -0.5, "special": False}
        self._event({"index": 1, "token": token, "generated_text": None, "details": None})
        if body["inputs"] == "fail":
            error = "Request failed during generation: Server error: CUDA out of memory"
            self._event({"error": error, "error_type": "generation"})
        if body["inputs"] == "hang":
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


@pytest.fixture(scope="session")
def broken_tgi() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BrokenTgi)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def tgi_gateway(broken_tgi: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Models: ``echo`` (alias ``mirror``), two that have to come in first, and ``broken``."""
    folder = tmp_path_factory.mktemp("clients")
    engine = start_echo(folder)
    broken = model(broken_tgi, id="broken", timeouts={"between_tokens_s": 0.5})
    sleepers = [owned(name, load_s=1) for name in SLEEPERS]
    registry = {"models": [model(engine.url, aliases=["mirror"]), broken, *sleepers]}
    running = start_gateway(folder, registry, heartbeat_s=0.2)
    yield running
    running.stop()
    engine.stop()


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
        return dict(json.loads(done.stdout))

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
