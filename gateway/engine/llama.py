"""The llama.cpp backend: TGI's meaning over llama.cpp's own ``/completion``, on the child's Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gateway.engine import grammars, weights
from gateway.engine.backend import (
    GenerationFailed,
    Job,
    LoadFailed,
    PromptToken,
    Refused,
    Step,
    TemplateMissing,
)
from gateway.engine.llama_process import LlamaProcess
from gateway.engine.llama_steps import StepReader, completion_body, prompt_tokens
from gateway.wire.tgi import GenerateParameters

_LOST = "the engine process ended"
# How long a prompt takes is nobody's guess here; the layer above has the clocks.
_NO_TIMEOUT = httpx.Timeout(None, connect=5)
_COMPLAINT_S = 0.05  # llama.cpp's log has a thread of its own
_WARM_UP = {"prompt": [1], "n_predict": 1, "cache_prompt": False}
_log = logging.getLogger("gateway.engine.llama")


@dataclass(frozen=True, slots=True)
class LlamaSettings:
    """``source`` is what ``weights.ensure`` takes."""

    source: str
    slots: int
    context_per_slot: int
    threads: int


class LlamaBackend:
    """See the module; implements Backend."""

    compute_type = "cpu+llama.cpp"

    def __init__(self, settings: LlamaSettings) -> None:
        self._settings = settings
        self._process: LlamaProcess | None = None
        self._pieces: dict[int, str] = {}
        self._one_grammar = asyncio.Lock()
        self._http: httpx.AsyncClient | None = None
        self._http_socket = Path()

    async def load(self) -> None:
        """Fetch the weights if need be, start the child, warm it up. Raises LoadFailed."""
        try:
            model = await _in_thread(lambda: weights.ensure(self._settings.source, _DownloadReport()))
        except weights.WeightsError as error:
            raise LoadFailed(str(error)) from error
        _log.info("phase=loading progress=0")
        self._process = LlamaProcess(
            model,
            slots=self._settings.slots,
            context_per_slot=self._settings.context_per_slot,
            threads=self._settings.threads,
        )
        await self._process.start(self._warm_up)

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()
        if self._process is not None:
            await self._process.stop()

    def healthy(self) -> bool:
        return self._process is not None and self._process.ready

    async def encode(self, text: str) -> Sequence[PromptToken]:
        body = {"content": text, "add_special": True, "parse_special": True, "with_pieces": True}
        answer = await self._ask("/tokenize", body)
        return prompt_tokens(text, answer["tokens"])

    async def render_chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        try:
            answer = await self._ask("/apply-template", {"messages": list(messages)})
        except Refused as error:
            raise TemplateMissing(str(error)) from error
        return str(answer["prompt"])

    def refusal(self, parameters: GenerateParameters) -> str | None:
        if parameters.watermark:
            return "`watermark` is not supported by this engine"
        if parameters.decoder_input_details:
            # llama.cpp gives no log probabilities of prompt tokens.
            return "`decoder_input_details` is not supported by this engine"
        return grammars.refusal(parameters.grammar) if parameters.grammar else None

    async def generate(self, job: Job) -> AsyncGenerator[Step]:
        body = completion_body(job, self._settings.context_per_slot)
        reader = StepReader(job)
        constrained = job.parameters.grammar is not None or job.schema is not None
        source = self._with_grammar(body) if constrained else self._completion(body)
        async with aclosing(source) as chunks:
            async for chunk in chunks:
                for step in reader.feed(chunk):
                    yield await self._with_end_text(step)
        if not reader.ended:
            raise GenerationFailed("the engine's answer broke off")

    async def _with_grammar(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """As ``_completion``, but Refused when llama.cpp cannot use the grammar.

        It says so on standard error alone and generates without one. So that its complaint can be told
        apart, one grammar at a time is on its way to its first chunk.
        """
        async with aclosing(self._completion(body)) as chunks:
            async with self._one_grammar:
                errors = self._process.grammar_errors if self._process else []
                errors.clear()
                first = await anext(chunks, None)
                await asyncio.sleep(_COMPLAINT_S)
                if errors:
                    raise Refused(f"grammar is not valid: {errors[0]}")
            if first is not None:
                yield first
            async for chunk in chunks:
                yield chunk

    async def _completion(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The chunks of one completion. Closing it closes the connection, which frees the slot."""
        try:
            client = await self._client()
            async with client.stream("POST", "/completion", json=body) as response:
                if response.status_code != 200:
                    raise _refused(await response.aread())
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        yield _chunk(line[6:])
                    elif line.startswith("error: "):
                        raise _refused(line[7:].encode())
        except httpx.TransportError as error:
            # The child died under the request: the connection just ends, which httpx reports in many ways.
            raise GenerationFailed(_LOST) from error

    async def _with_end_text(self, step: Step) -> Step:
        """Fill in the text of an end token, which llama.cpp sends empty."""
        if not step.special:
            return step
        if step.id not in self._pieces:
            answer = await self._ask("/detokenize", {"tokens": [step.id]})
            self._pieces[step.id] = answer["content"]
        return Step(step.index, step.id, self._pieces[step.id], step.logprob, True, step.top, step.finish)

    async def _warm_up(self) -> None:
        _log.info("phase=warming_up progress=0.97")
        try:
            await self._ask("/completion", _WARM_UP)
        except GenerationFailed as error:
            raise LoadFailed(f"llama.cpp could not generate: {error}") from error

    async def _ask(self, path: str, body: Mapping[str, Any]) -> Any:
        try:
            response = await (await self._client()).post(path, json=body)
        except httpx.TransportError as error:
            raise GenerationFailed(_LOST) from error
        if response.status_code != 200:
            raise _refused(response.content)
        return response.json()

    async def _client(self) -> httpx.AsyncClient:
        """The client of the present child. No connection is kept: llama.cpp closes idle ones."""
        socket = self._process.socket if self._process else Path()
        if self._http is None or socket != self._http_socket:
            if self._http is not None:
                await self._http.aclose()
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
            self._http_socket = socket
            self._http = httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=str(socket), limits=limits),
                base_url="http://llama",
                timeout=_NO_TIMEOUT,
            )
        return self._http


def _chunk(data: str) -> dict[str, Any]:
    chunk: dict[str, Any] = json.loads(data)
    if "error" in chunk:
        raise _refused(data.encode())
    return chunk


def _refused(raw: bytes) -> Refused | GenerationFailed:
    """llama.cpp's error body as one of ours: 400 is about the request, anything else is a failure."""
    try:
        error = json.loads(raw)["error"]
        message, code = str(error["message"]), int(error["code"])
    except (ValueError, KeyError, TypeError):
        return GenerationFailed(raw.decode(errors="replace") or "the engine said nothing")
    return Refused(message) if code == 400 else GenerationFailed(message)


class _DownloadReport:
    """Logs a download's progress, once per hundredth."""

    def __init__(self) -> None:
        self._last = -1

    def __call__(self, progress: float | None) -> None:
        hundredths = int((progress or 0.0) * 100)
        if hundredths != self._last:
            self._last = hundredths
            _log.info("phase=downloading progress=%.2f", hundredths / 100)


async def _in_thread(work: Callable[[], Path]) -> Path:
    """Run blocking work in a thread that does not outlive us: a download can only be abandoned."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Path] = loop.create_future()

    def deliver(act: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended without us
            loop.call_soon_threadsafe(lambda: None if done.done() else act())

    def run() -> None:
        try:
            found = work()
        except BaseException as error:  # whatever it was, the waiting task raises it
            failure = error
            deliver(lambda: done.set_exception(failure))
        else:
            deliver(lambda: done.set_result(found))

    threading.Thread(target=run, daemon=True, name="weights").start()
    return await done
