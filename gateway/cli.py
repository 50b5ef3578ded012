"""The command line of the gateway: ``python -m gateway serve`` and what an operator needs around it."""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from gateway import CODE, __version__, keys_command, registry
from gateway.auth import Keys
from gateway.config import Registry
from gateway.connections import Connection, Patience
from gateway.doctor import command as doctor_command
from gateway.logs import configure_logging
from gateway.main import create_app, fast_path, wind_down
from gateway.metrics import Metrics
from gateway.planning import command as planning
from gateway.readers import with_card_sizes
from gateway.settings import Settings, SettingsError
from gateway.store import command as store
from gateway.templates import FAMILIES, SPELLINGS
from gateway.upstream import ENGINES
from gateway.workers.crew import Crew, owned
from gateway.workers.process import settle

_FETCH = """
import signal, sys
interrupted = signal.signal(signal.SIGINT, signal.SIG_DFL)
from gateway.engine.weights import main
signal.signal(signal.SIGINT, interrupted)
sys.exit(main())
"""
"""``python -m gateway.engine.weights``, and Ctrl-C during its imports ends it without a traceback of them."""
OK, FAILED, USAGE = 0, 1, 2
BACKLOG = 2048


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (registry.RegistryError, SettingsError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return FAILED


def load_registry(path: Path) -> Registry:
    """Read a registry file against what this program knows. Raises RegistryError."""
    return registry.load(path, families=[*FAMILIES, *SPELLINGS], engines=[*ENGINES])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gateway",
        description="One API in front of all your models on one GPU that cannot hold them all.",
        epilog="Settings come from the environment (GATEWAY_HOST, GATEWAY_CONFIG, …): see .env.example.",
    )
    parser.add_argument("--version", action="version", version=f"unified-llm-gateway {__version__} ({CODE})")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the gateway")
    serve.add_argument("--hints", action="store_true", help="once it listens, say what to try")
    serve.add_argument("--workers", type=int, metavar="N", help="processes that answer (GATEWAY_WORKERS)")
    serve.set_defaults(run=_serve)
    prepare = commands.add_parser("prepare", help="fetch the weights of the embedded engine's models")
    prepare.set_defaults(run=_prepare)
    check = commands.add_parser("check-config", help="check a registry file without starting anything")
    check.add_argument("file", type=Path, help="such as models/models.yaml")
    check.set_defaults(run=_check_config)
    plan = commands.add_parser("plan", help="which models fit on which card, and which limits to set")
    planning.add_options(plan)
    plan.set_defaults(run=_plan)
    keys = commands.add_parser("keys", help="make, list and revoke API keys")
    keys_command.add_options(keys)
    keys.set_defaults(run=_keys)
    models = commands.add_parser("models", help="fetch, list, check and delete weights")
    store.add_options(models)
    models.set_defaults(run=_models)
    doctor = commands.add_parser("doctor", help="what is missing on this machine, and what to do about it")
    doctor_command.add_options(doctor)
    doctor.set_defaults(run=lambda options: doctor_command.run(options, _settings, load_registry))
    return parser


def _models(options: argparse.Namespace) -> int:
    return store.run(options, load_registry(options.config or _settings().config))


def _keys(options: argparse.Namespace) -> int:
    return keys_command.run(options, _settings().kept_keys)


def _plan(options: argparse.Namespace) -> int:
    print(planning.run(options, load_registry(options.config or _settings().config)))  # noqa: T201
    return OK


def _check_config(options: argparse.Namespace) -> int:
    found = load_registry(options.file)
    names = ", ".join(model.id for model in found.models)
    print(f"{options.file}: ok, {len(found.models)} models: {names}")  # noqa: T201
    return OK


def _prepare(_: argparse.Namespace) -> int:
    """Before anything starts, where a person can see it: a progress bar, and a clear reason on failure."""
    for source in load_registry(_settings().config).embedded_weights():
        # The engine is a program of its own; its libraries need not be loaded here.
        fetching = [sys.executable, "-c", _FETCH, "ensure", source]
        if (status := subprocess.run(fetching, check=False).returncode) != OK:  # noqa: S603  our own module
            return status
    return OK


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"  GATEWAY_{str(d['loc'][0]).upper()}: {d['msg']} (got {d['input']!r})" for d in error.errors()
        ]
        raise SettingsError("Settings in the environment are wrong:\n" + "\n".join(lines)) from error


def _serve(options: argparse.Namespace) -> int:
    if options.workers is not None:
        os.environ["GATEWAY_WORKERS"] = str(options.workers)  # where settings are checked
    settings = _settings()
    configure_logging(settings.log_level, settings.log_format)
    _say_whose_code()
    _check_workers(settings)
    registry = asyncio.run(with_card_sizes(load_registry(settings.config)))
    app = create_app(settings, registry)
    try:
        listener = _listen(settings)
    except OSError as error:
        print(_cannot_listen(settings, error), file=sys.stderr)  # noqa: T201
        return FAILED
    patience = Patience.of(settings)
    more: dict[str, Any] = {"patience": patience, "fast": lambda: fast_path(app)}
    others = settings.workers - 1
    crew = Crew(registry, listener, others, settings.drain_s) if others else None
    connection = partial(Connection, **more) if crew is None else partial(owned, workers=crew, **more)
    config = uvicorn.Config(
        crew.around(app) if crew is not None else app,
        http=cast(type[asyncio.Protocol], connection),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=math.ceil(patience.keep_alive_s),
        proxy_headers=False,  # nothing here depends on who asked, or how
        timeout_graceful_shutdown=math.ceil(settings.drain_s),
        lifespan="on",
    )
    server = _Server(config, app, _hints(settings, listener) if options.hints else None, crew)
    # uvicorn raises the signal that stopped it once more when all is done. It has been obeyed by then.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    with _pid_file(settings.run_dir, listener.getsockname()[1]):
        server.run(sockets=[listener])
    return OK if server.started else FAILED


def _say_whose_code() -> None:
    logger = logging.getLogger("gateway.cli")
    logger.info("Code: %s", CODE)
    if CODE.why_not:
        logger.warning("What was compiled is not used: %s. Compile it anew with: make compile", CODE.why_not)


@contextmanager
def _pid_file(folder: Path, port: int) -> Iterator[None]:
    """Left where `make down` finds it: ``gateway.pid``, or with the port in its name while another gateway
    that was started here has that one. Raises SettingsError when nothing can be left there."""
    own = str(os.getpid())
    path = folder / "gateway.pid"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if _of_a_living_gateway(path):
            path = folder / f"gateway-{port}.pid"
        path.write_text(own)
    except OSError as error:
        raise SettingsError(
            f"GATEWAY_RUN_DIR={folder} cannot be used: {error.strerror or error}. "
            "It must be a folder in which the gateway can write."
        ) from error
    try:
        yield
    finally:
        if path.exists() and path.read_text() == own:
            path.unlink()


def _of_a_living_gateway(path: Path) -> bool:
    """A process id can be used again by something else: where that can be seen, look."""
    text = path.read_text().strip() if path.exists() else ""
    if not text.isdigit() or int(text) == os.getpid():
        return False
    try:
        os.kill(int(text), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    command = Path("/proc", text, "cmdline")
    return b"gateway\0serve" in command.read_bytes() if command.exists() else True


class _Server(uvicorn.Server):
    """Says what to try, once it really listens; lets go of who only waits, before it waits for the rest."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, hints: str | None, crew: Crew | None) -> None:
        super().__init__(config)
        self._app = app
        self._hints = hints
        self._crew = crew
        metrics: Metrics = app.state.metrics
        connections = metrics.level("gateway_open_connections")
        metrics.sampled_by(lambda: connections.set(self._connections()))

    def _connections(self) -> int:
        elsewhere = 0 if self._crew is None else self._crew.connections
        return len(self.server_state.connections) + elsewhere

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        settle()
        if self.started and self._crew is not None:
            uvicorns: dict[str, Any] = {"config": self.config, "server_state": self.server_state}
            uvicorns["app_state"] = self.lifespan.state
            made = partial(self.config.http_protocol_class, **uvicorns)
            open_here = self.server_state.connections
            self._crew.begin(self._app.state.services, made, lambda: len(open_here))
        if self.started and self._hints:
            print(self._hints, flush=True)  # noqa: T201

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        wind_down(self._app)
        if self._crew is not None:
            self._crew.wind_down()
        await super().shutdown(sockets)
        if self.force_exit:
            if self._crew is not None:
                self._crew.kill()
            # A second signal: nothing more is waited for. What is cancelled by that is no news.
            logger = logging.getLogger("uvicorn.error")
            logger.warning("Ended at once: running answers were broken off")
            logger.disabled = True


def _check_workers(settings: Settings) -> None:
    """Raises SettingsError where there can be no more than one process."""
    if settings.workers == 1:
        return
    if sys.platform != "linux":
        raise SettingsError("GATEWAY_WORKERS: more than one process needs Linux.")
    if settings.transport != "fast" or settings.otlp_endpoint is not None:
        raise SettingsError(
            "GATEWAY_WORKERS: more than one process needs the fast path, so GATEWAY_TRANSPORT=fast and no "
            "GATEWAY_OTLP_ENDPOINT. Unset one of them."
        )


def _listen(settings: Settings) -> socket.socket:
    """Bound before anything is started, so that a taken port costs nothing."""
    info = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = info[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _cannot_listen(settings: Settings, error: OSError) -> str:
    where = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is taken by another process. Stop it (make down), or choose another GATEWAY_PORT."
    return f"Cannot listen on {where}: {error.strerror or error}. Check GATEWAY_HOST and GATEWAY_PORT."


def _hints(settings: Settings, listener: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{listener.getsockname()[1]}"
    found = load_registry(settings.config)
    others = [model for model in found.models if model.id != found.default()]
    # A placeholder that the shell fills in: the key itself does not belong on a screen.
    with_key = Keys.from_settings(settings).asked_for
    options = '-H "Authorization: Bearer $GATEWAY_API_KEY" ' if with_key else ""
    lines = [
        "",
        f"The gateway listens on {url}. Try, in another terminal:",
        "",
        _curl(url, '{"inputs": "What is the capital of France?", "scenario": "qa"}', options),
        _curl(url, '{"inputs": "Tell me about Paris.", "stream": true}', f"-N {options}"),
        *(_curl(url, f'{{"model_id": "{model.id}", "inputs": "Hello!"}}', options) for model in others[:1]),
        f"  python3 examples/chat_cli.py --url {url}",
        "",
        f"All routes: {url}/docs   Models: {url}/v1/models   Stop: Ctrl-C",
    ]
    return "\n".join(lines)


def _curl(url: str, body: str, options: str) -> str:
    return f"  curl {options}{url}/v1/generate -H 'Content-Type: application/json' -d '{body}'"
