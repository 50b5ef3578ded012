"""Who is measured: how each is started, and how it is asked for the same thing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.overhead.parts import Parts
from benchmarks.overhead.processes import free_port

_REGISTRY = """models:
  - id: bench
    family: qwen2
    url: {source}
    limits: {{max_concurrent: 8192, max_queue: 8192}}
    timeouts: {{between_tokens_s: 600, total_s: 900}}  # idle streams are held for longer than people wait
"""
_LITELLM = """model_list:
  - model_name: bench
    litellm_params: {{model: openai/bench, api_base: "{source}/v1", api_key: none}}
"""
_NGINX = """worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  keepalive_requests 100000000;
  upstream engine {{ server {address}; keepalive 4096; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """One route and the body that it takes."""

    path: str
    body: str


@dataclass(frozen=True, slots=True)
class Way:
    """One way through a program: what is sent for a plain answer, and for a stream."""

    plain: Callable[[int], Asked]
    stream: Callable[[int, int], Asked]


@dataclass(frozen=True, slots=True)
class Contender:
    """A program that stands between client and source; ``command`` starts it. Without one it runs already."""

    name: str
    command: list[str]
    port: int
    way: Way
    health: str = "/health"
    env: Mapping[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


COMPILED = "gateway, TGI route, compiled"


def _json(**body: object) -> str:
    return json.dumps(body, separators=(",", ":"))


def _wish(tokens: int, rate: int) -> str:
    return f"What does the quick brown fox do? tokens={tokens} rate={rate} "


def _parameters(tokens: int) -> dict[str, object]:
    return {"max_new_tokens": tokens, "temperature": 0.8, "top_p": 0.9}


TGI = Way(
    lambda tokens: Asked("/generate", _json(inputs=_wish(tokens, 0), parameters=_parameters(tokens))),
    lambda tokens, rate: Asked(
        "/generate_stream", _json(inputs=_wish(tokens, rate), parameters=_parameters(tokens))
    ),
)
NATIVE = Way(
    lambda tokens: Asked(
        "/v1/generate",
        _json(model_id="bench", inputs=_wish(tokens, 0), scenario="qa", parameters=_parameters(tokens)),
    ),
    lambda tokens, rate: Asked(
        "/v1/generate",
        _json(
            model_id="bench",
            inputs=_wish(tokens, rate),
            scenario="qa",
            parameters=_parameters(tokens),
            stream=True,
        ),
    ),
)
ROUTER = Way(
    lambda tokens: Asked("/generate", _json(text=_wish(tokens, 0), stream=False)),
    lambda tokens, rate: Asked("/generate", _json(text=_wish(tokens, rate), stream=True)),
)


CHAT = Way(
    lambda tokens: Asked(
        "/v1/chat/completions",
        _json(model="bench", messages=[{"role": "user", "content": _wish(tokens, 0)}], max_tokens=tokens),
    ),
    lambda tokens, rate: Asked(
        "/v1/chat/completions",
        _json(
            model="bench",
            messages=[{"role": "user", "content": _wish(tokens, rate)}],
            max_tokens=tokens,
            stream=True,
        ),
    ),
)
WAYS: Mapping[str, Way] = {"tgi": TGI, "native": NATIVE, "chat": CHAT, "router": ROUTER}
"""The routes that the source or the gateway knows, by what ``--also`` calls them."""


def also(text: str) -> Contender:
    """``NAME=http://HOST:PORT`` or ``NAME=ROUTE+http://HOST:PORT``. Raises ValueError otherwise."""
    name, found, url = text.partition("=")
    route, plus, rest = url.partition("+")
    parsed = urlsplit(rest if plus else url)
    way = WAYS.get(route if plus else "tgi")
    if not (found and name and way and parsed.scheme == "http" and parsed.hostname and parsed.port):
        routes = ", ".join(WAYS)
        raise ValueError(f"{text!r} is not NAME=ROUTE+http://HOST:PORT, with one of these routes: {routes}")
    return Contender(name, [], parsed.port, way, host=parsed.hostname)


def contenders(parts: Parts, source: str, folder: Path) -> Iterator[Contender]:
    """Ours first. ``source`` is the address of the token source, ``folder`` takes configurations and logs."""
    yield ours("gateway, TGI route", source, folder, TGI)
    if parts.compiled is not None:
        yield ours(COMPILED, source, folder, TGI, GATEWAY_COMPILED=str(parts.compiled))
    yield ours("gateway, native route", source, folder, NATIVE)
    yield ours("gateway, OpenAI route", source, folder, CHAT)
    yield ours("gateway over plain httpx", source, folder, TGI, GATEWAY_TRANSPORT="httpx")
    if parts.nginx is not None:
        yield _nginx(parts.nginx, source, folder)
    if parts.vllm_router is not None:
        yield _vllm_router(parts.vllm_router, source)
    yield yardstick(source)
    if parts.litellm is not None:
        # It has no TGI route. It is asked as ours is on OpenAI's.
        yield _litellm(parts.litellm, source, folder)


def ours(name: str, source: str, folder: Path, way: Way, **settings: str) -> Contender:
    port = free_port()
    registry = folder / f"models-{port}.yaml"
    registry.write_text(_REGISTRY.format(source=source), encoding="utf-8")
    env = {
        "GATEWAY_CONFIG": str(registry),
        "GATEWAY_PORT": str(port),
        "GATEWAY_RUN_DIR": str(folder / f"run-{port}"),
        "GATEWAY_COMPILED": "off",
        **settings,
    }
    return Contender(name, [sys.executable, "-m", "gateway", "serve"], port, way, env=env)


def _nginx(program: str, source: str, folder: Path) -> Contender:
    port = free_port()
    config = folder / "nginx.conf"
    address = source.removeprefix("http://")
    config.write_text(_NGINX.format(folder=folder, address=address, port=port), encoding="utf-8")
    return Contender("nginx proxy_pass", [program, "-c", str(config)], port, TGI)


def _vllm_router(program: Path, source: str) -> Contender:
    port = free_port()
    options = {"--host": "127.0.0.1", "--port": port, "--prometheus-port": free_port(), "--log-level": "info"}
    command = [str(program), "--worker-urls", source, "--policy", "round_robin"]
    command += [str(part) for pair in options.items() for part in pair]
    return Contender("vllm-router", command, port, ROUTER)


def _litellm(program: Path, source: str, folder: Path) -> Contender:
    port = free_port()
    config = folder / "litellm.yaml"
    config.write_text(_LITELLM.format(source=source), encoding="utf-8")
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    return Contender("LiteLLM", command, port, CHAT, health="/health/liveliness", env=env)


def yardstick(source: str) -> Contender:
    port = free_port()
    app = "benchmarks.overhead.yardstick:app"
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--log-level", "info"]
    return Contender("FastAPI + httpx", command, port, TGI, health="/docs", env={"ENGINE_URL": source})
