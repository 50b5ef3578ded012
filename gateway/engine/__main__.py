"""``python -m gateway.engine``: load a backend, then bind the port and serve until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvicorn

from gateway.engine.backend import Backend, LoadFailed
from gateway.engine.echo import EchoBackend, EchoSettings
from gateway.engine.metrics import Metrics
from gateway.engine.server import Api, create_app
from gateway.engine.service import Service
from gateway.engine.speed import Speed, UnknownSpeed, names, speed_of
from gateway.wire.tgi import KEEP_ALIVE_S, Limits

_log = logging.getLogger("text_generation_launcher")


def parser() -> ArgumentParser:
    arguments = ArgumentParser(prog="python -m gateway.engine", description="A small engine on TGI's wire.")
    arguments.add_argument("--backend", choices=("llama", "echo"), required=True)
    arguments.add_argument("--model-id", help="the name in /info and /v1/models (default: the model)")
    arguments.add_argument("--host", default="127.0.0.1")
    arguments.add_argument("--port", type=int, required=True, help="0 takes a free one and logs it")
    arguments.add_argument("--max-concurrent", type=_positive, default=128, help="above it requests get 429")
    arguments.add_argument("--slots", type=_positive, help="generations at a time (llama 8, echo no limit)")
    arguments.add_argument("--keep-alive-s", type=float, default=KEEP_ALIVE_S, help=f"({KEEP_ALIVE_S})")
    arguments.add_argument(
        "--drain-s", type=_positive, default=10, help="SIGTERM waits this long for running requests (10)"
    )
    arguments.add_argument(
        "--final-metrics", type=Path, metavar="FILE", help="what /metrics says goes into it at the end"
    )
    _add_llama(arguments)
    _add_echo(arguments)
    return arguments


def _add_llama(arguments: ArgumentParser) -> None:
    group = arguments.add_argument_group("llama")
    group.add_argument("--model", help="a GGUF file, smollm2-q4_1, smollm2-q8_0 or hub:REPO:FILE")
    group.add_argument("--context-per-slot", type=_positive, default=2048, help="tokens, input and answer")
    group.add_argument("--threads", type=_positive, help="(default: the processors this process may use)")


def _add_echo(arguments: ArgumentParser) -> None:
    group = arguments.add_argument_group("echo", "Single options win over --speed, and are not scaled.")
    group.add_argument("--speed", metavar="NAME", help=f"{', '.join(names())}, or a .toml file")
    group.add_argument("--speed-scale", type=_rate, default=1.0, help="makes --speed so many times faster")
    group.add_argument("--load-s", type=float, help="(0)")
    group.add_argument("--first-token-s", type=float, help="(0)")
    group.add_argument("--tokens-per-s", type=float, help="per stream; 0 is unlimited")
    group.add_argument("--prefill-tokens-per-s", type=float, help="0 is unlimited")
    group.add_argument("--max-input-tokens", type=_positive, help="(1024)")
    group.add_argument("--max-total-tokens", type=_positive, help="(2048)")
    group.add_argument("--memory-bytes", type=int, default=0, help="really allocated and written")
    group.add_argument(
        "--fail", choices=("none", "load", "mid-stream", "hang", "ignore-sigterm"), default="none"
    )
    group.add_argument("--fail-after-tokens", type=int, default=5, help="for mid-stream and hang")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(text)
    return value


@dataclass(frozen=True, slots=True)
class Engine:
    """What is served: a backend, what it takes per request, and how many run together."""

    backend: Backend
    limits: Limits
    slots: int
    batch_tokens: int | None = None


def build(options: Namespace) -> Engine:
    """Raises UnknownSpeed."""
    if options.backend == "llama":
        return _llama(options)
    speed = _speed(options) if options.speed is not None else None
    settings = EchoSettings(
        model_id=options.model_id,
        load_s=speed.load_s if speed is not None else options.load_s or 0.0,
        first_token_s=options.first_token_s or 0.0,
        tokens_per_s=options.tokens_per_s or 0.0,
        prefill_tokens_per_s=options.prefill_tokens_per_s or 0.0,
        memory_bytes=options.memory_bytes,
        fail=options.fail,
        fail_after_tokens=options.fail_after_tokens,
        speed=speed,
    )
    max_input_tokens = speed.max_input_tokens if speed is not None else options.max_input_tokens or 1024
    max_total_tokens = speed.max_total_tokens if speed is not None else options.max_total_tokens or 2048
    limits = Limits(max_input_tokens, max_total_tokens, options.max_concurrent)
    slots = speed.slots if speed is not None else options.slots or options.max_concurrent
    return Engine(EchoBackend(settings), limits, slots, speed.batch_tokens if speed is not None else None)


def _speed(options: Namespace) -> Speed:
    """The preset with what was given one by one in its place: a figure of 0 is no time at all."""
    speed = speed_of(options.speed).scaled(options.speed_scale)
    given: dict[str, Any] = {}
    for name in ("load_s", "slots", "max_input_tokens", "max_total_tokens"):
        if getattr(options, name) is not None:
            given[name] = getattr(options, name)
    if options.first_token_s is not None:
        given["prefill_fixed_s"] = options.first_token_s
    if options.prefill_tokens_per_s is not None:
        given["prefill_s_per_token"] = _per_s(options.prefill_tokens_per_s)
    if options.tokens_per_s is not None:
        given |= {"decode_s": ((1, _per_s(options.tokens_per_s)),), "context_s_per_token": 0.0}
    return replace(speed, **given)


def _per_s(rate: float) -> float:
    return 1 / rate if rate else 0.0


def _llama(options: Namespace) -> Engine:
    # Here and not above: echo engines are started by the dozen, and a third of their start would be httpx.
    from gateway.engine.llama import LlamaBackend, LlamaSettings

    slots = options.slots or 8
    settings = LlamaSettings(
        source=options.model,
        slots=slots,
        context_per_slot=options.context_per_slot,
        threads=options.threads or _processors(),
    )
    limits = Limits(options.context_per_slot - 1, options.context_per_slot, options.max_concurrent)
    return Engine(LlamaBackend(settings), limits, slots)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _keep(metrics: Metrics, path: Path) -> None:
    """Counts outlive the process that had them: one block a process, each behind a line with its id."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"# process {os.getpid()}\n{metrics.exposition()}")


class _Server(uvicorn.Server):
    """Leaves signals to ``_run``, which has to handle them while the model loads, too."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            host, port = server.sockets[0].getsockname()[:2]
            _log.info("Listening on http://%s:%s phase=ready progress=1", host, port)


async def _run(options: Namespace, engine: Engine) -> int:
    backend, limits = engine.backend, engine.limits
    metrics = Metrics(limits.max_input_tokens, limits.max_total_tokens)
    service = Service(backend, limits, metrics, slots=engine.slots, batch_tokens=engine.batch_tokens)
    app = create_app(Api(service, options.model_id, options.keep_alive_s))
    server = _Server(
        uvicorn.Config(
            app,
            host=options.host,
            port=options.port,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=options.drain_s,
        )
    )
    loading = asyncio.create_task(backend.load())
    _on_signals(server, loading, ignore_sigterm=options.fail == "ignore-sigterm")
    try:
        await loading
        await server.serve()
    except LoadFailed as error:
        _log.error("%s", error)
        return 1
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM  # told to stop while loading
    finally:
        await backend.close()
        if options.final_metrics is not None:
            _keep(metrics, options.final_metrics)
    return 0


def _on_signals(server: _Server, loading: asyncio.Task[None], *, ignore_sigterm: bool) -> None:
    def stop(number: signal.Signals) -> None:
        if ignore_sigterm and number == signal.SIGTERM:
            return
        server.handle_exit(number, None)
        loading.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.backend == "llama" and not options.model:
        parser().error("--backend llama needs --model")
    if options.speed_scale != 1.0 and options.speed is None:
        parser().error("--speed-scale scales a --speed, and none is given")
    options.model_id = options.model_id or options.model or options.speed or "echo"
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)5s %(name)s: %(message)s",
    )
    for noisy in ("uvicorn", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        engine = build(options)
    except UnknownSpeed as error:
        parser().error(str(error))
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_run(options, engine))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
