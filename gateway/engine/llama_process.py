"""The life of the llama.cpp process: started, watched, started again with back-off, ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.engine.backend import LoadFailed

BACK_OFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_GRAMMAR_ERROR = re.compile(r"\bllg error: (?P<reason>.*)")
_log = logging.getLogger("gateway.engine.llama")


@dataclass(frozen=True, slots=True)
class ChildConfig:
    """What the child is told over its standard input."""

    model: str
    socket: str
    slots: int
    context_per_slot: int
    threads: int


class LlamaProcess:
    """Keeps one child alive between ``start`` and ``stop``. ``socket`` changes with every child."""

    def __init__(self, model: Path, *, slots: int, context_per_slot: int, threads: int) -> None:
        self._model = model
        self._slots = slots
        self._context_per_slot = context_per_slot
        self._threads = threads
        self._folder = Path()
        self._starts = 0
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._readers: set[asyncio.Task[None]] = set()
        self.ready = False
        self.socket = Path()
        self.grammar_errors: list[str] = []
        """What llama.cpp said about grammars it ignored; see ``LlamaBackend``."""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self, warm_up: Callable[[], Awaitable[None]]) -> None:
        """Start the child, wait until it is warm; from then on restart it when it dies. Raises LoadFailed."""
        # A folder of our own (mode 0700) and a short path: a Unix socket's has a limit of about 100 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="llama-"))
        await self._launch()
        await warm_up()
        self.ready = True
        self._keeper = asyncio.create_task(self._keep(warm_up))

    async def stop(self) -> None:
        """End the child, gently at first. Returns when it is gone."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self.ready = False
        await self._end_child()
        await asyncio.gather(*self._readers, return_exceptions=True)
        if self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _end_child(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 2)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _launch(self) -> None:
        self._starts += 1
        # A new name each time: a socket file that a killed child left cannot be bound again.
        self.socket = self._folder / f"{self._starts}.sock"
        program = Path(__file__).with_name("llama_child.py")
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # run by path without its folder on the import path: our requests.py is not the library
            str(program),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # Spinning OpenMP threads collapse to a tenth of the speed as soon as another process wants the
            # processor. It is read when the library loads, so it has to be in the environment by then.
            env={"OMP_WAIT_POLICY": "passive", **os.environ},
            # Its own session: Ctrl-C in a terminal reaches us alone, and we end it in order.
            start_new_session=True,
        )
        self._follow(process)
        await self._configure(process)
        await self._await_ready(process)

    def _follow(self, process: asyncio.subprocess.Process) -> None:
        reader = asyncio.create_task(self._read_log(process))
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)

    async def _read_log(self, process: asyncio.subprocess.Process) -> None:
        if process.stderr is None:
            return
        async for line in _lines(process.stderr):
            _log.warning("llama.cpp: %s", line)
            match = _GRAMMAR_ERROR.search(line)
            if match is not None:
                self.grammar_errors.append(match["reason"])

    async def _configure(self, process: asyncio.subprocess.Process) -> None:
        config = ChildConfig(
            model=str(self._model),
            socket=str(self.socket),
            slots=self._slots,
            context_per_slot=self._context_per_slot,
            threads=self._threads,
        )
        if process.stdin is not None:
            process.stdin.write(json.dumps(asdict(config)).encode() + b"\n")
            with contextlib.suppress(ConnectionError):  # died at once: said when its output is read
                await process.stdin.drain()

    async def _await_ready(self, process: asyncio.subprocess.Process) -> None:
        reporter = asyncio.create_task(self._report_progress(process.pid))
        try:
            line = await process.stdout.readline() if process.stdout else b""
        finally:
            reporter.cancel()
        if not line:
            raise LoadFailed(f"llama.cpp ended while it loaded the model ({_how(await process.wait())})")
        message = json.loads(line)
        if "error" in message:
            await process.wait()
            raise LoadFailed(message["error"])

    async def _report_progress(self, pid: int) -> None:
        """Say how much of the model is in memory: llama.cpp itself has no better news."""
        while True:
            progress = _loaded_part(self._model, pid)
            if progress is not None:
                _log.info("phase=loading progress=%.2f", progress)
            await asyncio.sleep(0.5)

    async def _keep(self, warm_up: Callable[[], Awaitable[None]]) -> None:
        """Wait for the child's death, start the next one, for ever. A long life resets the back-off."""
        failures = 0
        clock = asyncio.get_running_loop().time
        while self._process is not None:
            born_s = clock()
            code = await self._process.wait()
            self.ready = False
            failures = 0 if clock() - born_s > BACK_OFF_S[-1] else failures
            wait_s = BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)]
            failures += 1
            _log.error("llama.cpp ended (%s); starting it again in %s s", _how(code), wait_s)
            await asyncio.sleep(wait_s)
            try:
                await self._launch()
                await warm_up()
            except LoadFailed as error:
                _log.error("%s", error)
                await self._end_child()
            else:
                self.ready = True
                _log.info("llama.cpp is back phase=ready progress=1")


def _loaded_part(model: Path, pid: int) -> float | None:
    """Resident memory of the process over the file's size, 0 to 0.95; None where the system does not say."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return min(0.95, pages * os.sysconf("SC_PAGE_SIZE") / model.stat().st_size)
    except (OSError, IndexError, ValueError, ZeroDivisionError):
        return None


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            continue  # longer than the reader's buffer, which has dropped it
        if not line:
            return
        yield line.decode(errors="replace").rstrip()
