"""``POST /v1/chat/completions`` as TGI answers it, streamed and whole, with tools."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.engine import chat
from gateway.engine.backend import EngineError, Step, ToolRefused
from gateway.engine.chat import ChatRequest
from gateway.engine.chat_calls import CallPiece, CallReader
from gateway.engine.requests import parse
from gateway.engine.service import Service, Timing, Transcript
from gateway.engine.streams import ClientGone, EventStream, unless_gone
from gateway.wire.tgi import compact_json, data_event

_DONE: Final = b"data: [DONE]\n\n"
_REASONS: Final = {"eos_token": "stop", "length": "length", "stop_sequence": "stop_sequence"}
_ID: Final = "0"
"""What TGI calls every tool call."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A request with what its model is going to read: with the tools, and without."""

    request: ChatRequest
    schema: Mapping[str, Any] | None
    prompt: str
    plain: str


@dataclass(frozen=True, slots=True)
class Ended:
    """All of it is there."""

    transcript: Transcript


Piece = Step | CallPiece | Ended


@dataclass(frozen=True, slots=True)
class ChatApi:
    """The handlers. ``keep_alive_s`` is the silence after which a stream gets a comment."""

    service: Service
    model_id: str
    fingerprint: str
    keep_alive_s: float

    async def completions(self, request: Request) -> Response:
        body = await parse(request, ChatRequest)
        plan = await self.plan(body)
        headers = {"x-compute-type": self.service.backend.compute_type}
        if body.stream:
            return EventStream(lambda: self._events(plan), headers=headers, keep_alive_s=self.keep_alive_s)
        try:
            answer = await unless_gone(self._whole(plan), request.receive)
        except ClientGone:
            return Response(status_code=499)  # nobody reads it; the slot is free already
        return Response(compact_json(answer), headers=headers, media_type="application/json")

    async def plan(self, body: ChatRequest) -> Plan:
        """Raises ToolRefused, Refused, TemplateMissing and GenerationFailed."""
        chat.check(body)
        render, offered = self.service.backend.render_chat, body.offered()
        plain = await render(chat.turns(body, ()))
        if not offered:
            return Plan(body, None, plain, plain)
        words = body.may_answer_in_words
        answered = body.messages[-1].role == "tool"
        schema = chat.grammar(offered, words=words, words_first=answered)
        return Plan(body, schema, await render(chat.turns(body, offered)), plain)

    async def _pieces(self, plan: Plan, timing: Timing) -> AsyncGenerator[Piece]:
        """The pieces of the answer, then Ended. Who chooses no tool is asked again, without any."""
        if plan.schema is not None:
            reader = CallReader()
            async with aclosing(self._steps(plan, plan.prompt, plan.schema, timing)) as steps:
                async for transcript in steps:
                    step = transcript.steps[-1]
                    pieces = list(reader.feed("" if step.special else step.text))
                    if reader.name == chat.NO_TOOL:
                        break
                    for piece in pieces:
                        yield piece
                    if step.finish is not None:
                        for piece in reader.finish(complete=_is_whole(transcript)):
                            yield piece
                        yield Ended(transcript)
                        return
        async with aclosing(self._steps(plan, plan.plain, None, timing)) as steps:
            async for transcript in steps:
                yield transcript.steps[-1]
                if transcript.steps[-1].finish is not None:
                    yield Ended(transcript)

    async def _steps(
        self, plan: Plan, prompt: str, schema: Mapping[str, Any] | None, timing: Timing
    ) -> AsyncGenerator[Transcript]:
        """One generation; the transcript after each of its steps."""
        request = plan.request.generation(prompt)
        if schema is not None:
            # A stop string would end a call in the middle.
            parameters = request.parameters.model_copy(update={"stop": []})
            request = request.model_copy(update={"parameters": parameters})
        job = replace(await self.service.prepare(request, timing, stream=True), schema=schema)
        transcript = Transcript(job)
        async with aclosing(self.service.run(job, timing)) as steps:
            async for step in steps:
                transcript.add(step)
                yield transcript

    async def _events(self, plan: Plan) -> AsyncGenerator[bytes]:
        """Every event. Errors are events as well, and TGI's number in them is always the same."""
        try:
            with self.service.admitted():
                timing = Timing()
                async with aclosing(self._pieces(plan, timing)) as pieces:
                    async for piece in pieces:
                        yield self._event(plan, piece)
                        if isinstance(piece, Ended):
                            self.service.finished(timing, piece.transcript.generated_tokens)
        except EngineError as error:
            yield data_event({"error": {"message": error.sentence, "http_status_code": 422}})
        yield _DONE

    def _event(self, plan: Plan, piece: Piece) -> bytes:
        if isinstance(piece, Ended):
            last = piece.transcript
            finish = self._chunk({"role": "assistant", "content": ""}, _REASONS[last.finish_reason])
            if not plan.request.stream_options.include_usage:
                return finish
            return finish + data_event({**self._head("chat.completion.chunk", []), "usage": _usage(last)})
        if isinstance(piece, CallPiece):
            function = {"name": piece.name, "arguments": piece.arguments}
            call = {"index": 0, "id": _ID, "type": "function", "function": function}
            return self._chunk({"role": "assistant", "tool_calls": [call]}, None)
        content = "" if piece.special else piece.text
        logprobs = _logprobs([piece]) if plan.request.logprobs else None
        return self._chunk({"role": "assistant", "content": content}, None, logprobs)

    def _chunk(self, delta: Mapping[str, Any], reason: str | None, logprobs: Any = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return data_event({**self._head("chat.completion.chunk", [choice]), "usage": None})

    async def _whole(self, plan: Plan) -> dict[str, Any]:
        with self.service.admitted():
            timing = Timing()
            async with aclosing(self._pieces(plan, timing)) as pieces:
                found = [piece async for piece in pieces]
            last = next(piece.transcript for piece in found if isinstance(piece, Ended))
            self.service.finished(timing, last.generated_tokens)
        calls = [piece for piece in found if isinstance(piece, CallPiece)]
        steps = [piece for piece in found if isinstance(piece, Step)]
        choice = {
            "index": 0,
            "message": _message(calls, last),
            "logprobs": _logprobs(steps) if plan.request.logprobs and steps else None,
            "finish_reason": _REASONS[last.finish_reason],
        }
        return {**self._head("chat.completion", [choice]), "usage": _usage(last)}

    def _head(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "object": kind,
            "id": "",
            "created": int(time.time()),
            "model": self.model_id,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


def _is_whole(transcript: Transcript) -> bool:
    """Whether the text is all of its grammar, and not cut off."""
    try:
        json.loads(transcript.said)
    except ValueError:
        return False
    return True


def _message(calls: list[CallPiece], last: Transcript) -> dict[str, Any]:
    """Raises ToolRefused for a call that was cut off, as TGI cannot read it."""
    if last.job.schema is None:
        return {"role": "assistant", "content": last.said}
    if not _is_whole(last):
        raise ToolRefused(f"Failed to parse generated text: {last.said!r}")
    arguments = "".join(piece.arguments for piece in calls)
    function = {"description": None, "name": calls[0].name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": _ID, "type": "function", "function": function}]}


def _usage(last: Transcript) -> dict[str, int]:
    read, written = len(last.job.tokens), last.generated_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _logprobs(steps: list[Step]) -> dict[str, Any]:
    rows = [
        {
            "token": step.text,
            "logprob": step.logprob,
            "top_logprobs": [{"token": one["text"], "logprob": one["logprob"]} for one in step.top or ()],
        }
        for step in steps
    ]
    return {"content": rows}
