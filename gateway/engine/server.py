"""TGI's routes over one backend."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway.engine.backend import EngineError, PromptToken, Refused
from gateway.engine.chat import ChatRequest
from gateway.engine.chat_server import ChatApi
from gateway.engine.requests import Unparsable, parse
from gateway.engine.service import Service, Timing, Transcript, token_of
from gateway.engine.streams import ClientGone, EventStream, unless_gone
from gateway.wire.tgi import GenerateRequest, compact_json, data_event, error_body, stream_event

Endpoint = Callable[[Request], Awaitable[Response]]
VERSION = "3.3.6-dev0"
"""What the last TGI releases say of themselves; clients that look for a version find one they know."""


@dataclass(frozen=True, slots=True)
class Api:
    """The handlers. ``keep_alive_s`` is the silence after which a stream gets a comment."""

    service: Service
    model_id: str
    keep_alive_s: float

    @property
    def chat(self) -> ChatApi:
        return ChatApi(self.service, self.model_id, VERSION, self.keep_alive_s)

    async def generate(self, request: Request) -> Response:
        body = await parse(request, GenerateRequest)
        return await self._complete(request, body, as_list=False)

    async def generate_stream(self, request: Request) -> Response:
        return self._stream(await parse(request, GenerateRequest))

    async def compat(self, request: Request) -> Response:
        body = await parse(request, GenerateRequest)
        if body.parameters.return_full_text is None:
            # On this route a text-generation model answers with the prompt in front, unless told not to.
            parameters = body.parameters.model_copy(update={"return_full_text": True})
            body = body.model_copy(update={"parameters": parameters})
        return self._stream(body) if body.stream else await self._complete(request, body, as_list=True)

    async def _complete(self, request: Request, body: GenerateRequest, *, as_list: bool) -> Response:
        timing = Timing()
        try:
            transcripts = await unless_gone(self._transcripts(body, timing), request.receive)
        except ClientGone:
            return Response(status_code=499)  # nobody reads it; the slot is free already
        answer = _answer(transcripts)
        headers = self._timing_headers(body, timing, transcripts[0])
        return _json([answer] if as_list else answer, headers=headers)

    async def _transcripts(self, body: GenerateRequest, timing: Timing) -> list[Transcript]:
        with self.service.admitted():
            job = await self.service.prepare(body, timing, stream=False)
            return await self.service.complete(job, timing)

    def _stream(self, body: GenerateRequest) -> Response:
        headers = self._headers(body)
        return EventStream(lambda: self._events(body), headers=headers, keep_alive_s=self.keep_alive_s)

    async def _events(self, body: GenerateRequest) -> AsyncGenerator[bytes]:
        """Every event. From here on an error is an event, too: the status was sent, as in TGI."""
        try:
            with self.service.admitted():
                timing = Timing()
                job = await self.service.prepare(body, timing, stream=True)
                transcript = Transcript(job)
                async with aclosing(self.service.run(job, timing)) as steps:
                    async for step in steps:
                        transcript.add(step)
                        yield _event(transcript)
                self.service.finished(timing, transcript.generated_tokens)
        except EngineError as error:
            yield data_event(error_body(error.sentence, error.error_type))

    async def tokenize(self, request: Request) -> Response:
        body = await parse(request, GenerateRequest)
        if not body.inputs:
            raise Refused("`inputs` cannot be empty")
        return _json(_token_list(await self.service.backend.encode(body.inputs)))

    async def chat_tokenize(self, request: Request) -> Response:
        text = (await self.chat.plan(await parse(request, ChatRequest))).prompt
        tokens = await self.service.backend.encode(text)
        return _json({"tokenize_response": _token_list(tokens), "templated_text": text})

    async def health(self, request: Request) -> Response:
        if self.service.backend.healthy():
            return Response()
        return _json(error_body("unhealthy", "healthcheck"), status=503)

    async def info(self, request: Request) -> Response:
        limits = self.service.limits
        return _json(
            {
                "model_id": self.model_id,
                "model_sha": None,
                "model_pipeline_tag": "text-generation",
                "max_concurrent_requests": limits.max_concurrent_requests,
                "max_best_of": limits.max_best_of,
                "max_stop_sequences": limits.max_stop_sequences,
                "max_input_tokens": limits.max_input_tokens,
                "max_total_tokens": limits.max_total_tokens,
                "validation_workers": 1,
                "max_client_batch_size": 1,
                "router": "text-generation-router",
                "version": VERSION,
                "sha": None,
                "docker_label": None,
            }
        )

    async def models(self, request: Request) -> Response:
        entry = {"id": self.model_id, "object": "model", "created": 0, "owned_by": self.model_id}
        return _json({"object": "list", "data": [entry]})

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse(self.service.metrics.exposition())

    def _headers(self, body: GenerateRequest) -> dict[str, str]:
        return {
            "x-compute-type": self.service.backend.compute_type,
            "x-compute-characters": str(len(body.inputs)),
        }

    def _timing_headers(self, body: GenerateRequest, timing: Timing, best: Transcript) -> dict[str, str]:
        """TGI's headers; ``x-compute-time`` is in seconds, the other times in whole milliseconds."""
        per_token_s = timing.inference_s / max(1, best.generated_tokens)
        return {
            **self._headers(body),
            "x-compute-time": str(timing.total_s),
            "x-total-time": _whole_ms(timing.total_s),
            "x-validation-time": _whole_ms(timing.validation_s),
            "x-queue-time": _whole_ms(timing.queue_s),
            "x-inference-time": _whole_ms(timing.inference_s),
            "x-time-per-token": _whole_ms(per_token_s),
            "x-prompt-tokens": str(len(best.job.tokens)),
            "x-generated-tokens": str(best.generated_tokens),
        }


def _whole_ms(seconds: float) -> str:
    return str(int(seconds * 1000))


def _answer(transcripts: list[Transcript]) -> dict[str, Any]:
    best, *others = transcripts
    answer: dict[str, Any] = {"generated_text": best.text}
    if best.job.parameters.details:
        details = best.details()
        if others:
            details["best_of_sequences"] = [{"generated_text": one.text, **one.details()} for one in others]
        answer["details"] = details
    return answer


def _event(transcript: Transcript) -> bytes:
    step = transcript.steps[-1]
    parameters = transcript.job.parameters
    last = step.finish is not None
    return stream_event(
        step.index,
        token_of(step),
        top_tokens=(step.top or ()) if parameters.top_n_tokens else None,
        generated_text=transcript.text if last else None,
        details=transcript.stream_details() if last and parameters.details else None,
    )


def _token_list(tokens: Any) -> list[dict[str, Any]]:
    return [_prompt_token(token) for token in tokens]


def _prompt_token(token: PromptToken) -> dict[str, Any]:
    return {"id": token.id, "text": token.text, "start": token.start, "stop": token.stop}


def _json(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(compact_json(body), status, headers, media_type="application/json")


async def _on_engine_error(request: Request, error: Any) -> Response:
    return _json(error_body(error.sentence, error.error_type), status=error.status)


async def _on_unparsable(request: Request, error: Any) -> Response:
    return PlainTextResponse(str(error), status_code=error.status)


async def _on_http_error(request: Request, error: Any) -> Response:
    return Response(status_code=error.status_code, headers=error.headers)  # 404 and 405 have no body in TGI


async def _on_disconnect(request: Request, error: Any) -> Response:
    return Response(status_code=499)  # the client left while it was still sending


def create_app(api: Api) -> Starlette:
    """The whole route table."""
    return Starlette(
        routes=[
            Route("/", api.compat, methods=["POST"]),
            Route("/", api.health, methods=["GET"]),
            Route("/generate", api.generate, methods=["POST"]),
            Route("/generate_stream", api.generate_stream, methods=["POST"]),
            Route("/tokenize", api.tokenize, methods=["POST"]),
            Route("/chat_tokenize", api.chat_tokenize, methods=["POST"]),
            Route("/v1/chat/completions", api.chat.completions, methods=["POST"]),
            Route("/health", api.health, methods=["GET"]),
            Route("/ping", api.health, methods=["GET"]),
            Route("/info", api.info, methods=["GET"]),
            Route("/metrics", api.metrics, methods=["GET"]),
            Route("/v1/models", api.models, methods=["GET"]),
        ],
        exception_handlers={
            EngineError: _on_engine_error,
            Unparsable: _on_unparsable,
            HTTPException: _on_http_error,
            ClientDisconnect: _on_disconnect,
        },
    )
