"""The real ``openai`` package in front of the gateway.

It is what people have, with its own parsing of streams and its own idea of errors; plain HTTP in its wire
would only test our reading of it. Locust has patched sockets and locks by the time that it is imported, and
its synchronous client (httpx without asyncio) waits on those alone, so it yields to other users. It takes
some ten times the processor time of a StreamUser per token: that is why there are few of these.
"""

from __future__ import annotations

import time
from typing import Any

import openai
from locust import task
from openai.types.chat import ChatCompletionUserMessageParam

from loadtest.records import Record
from loadtest.users.base import IDLE_S, GatewayUser
from loadtest.wire import receipt_of

ROUTE = "chat_completions"
STREAMED = 0.5


class OpenAIUser(GatewayUser):
    """Chat completions through OpenAI's own client, half of them streamed. Its retries are off: one call is
    one request."""

    weight = 4
    kind = "openai"

    def on_start(self) -> None:
        super().on_start()
        self._openai = self._client()

    def _client(self) -> openai.OpenAI:
        settings = self.desk.settings
        return openai.OpenAI(
            base_url=f"{settings.host}/v1",
            api_key=settings.api_key or "none",
            max_retries=0,
            timeout=self.network_timeout,
        )

    def on_stop(self) -> None:
        if hasattr(self, "_openai"):  # not where the run could not begin
            self._openai.close()

    @task
    def complete(self) -> None:
        target = self.prompts.target()
        ask = self.prompts.ask(target, "general")
        stream = self.prompts.chance(STREAMED)
        record = self.record(target.model, ROUTE, stream=stream)
        record.asked_tokens = ask.max_new_tokens
        call: dict[str, Any] = {
            "model": target.model,
            "messages": [ChatCompletionUserMessageParam(role="user", content=ask.text)],
            "max_tokens": ask.max_new_tokens,
            "extra_headers": {"x-request-id": record.request_id},
        }
        with self.kept(record):
            if time.perf_counter() - self._answered > IDLE_S:
                self._openai.close()
                self._openai = self._client()
            begun = time.perf_counter()
            try:
                (self._stream if stream else self._plain)(call, record, begun)
            except openai.APIStatusError as error:
                record.outcome, record.status = "failed", error.status_code
                record.error = f"{error.status_code} {error.message}"[:300]
            except openai.OpenAIError as error:
                record.outcome, record.error = "failed", f"{type(error).__name__}: {error}"[:300]
            self._answered = time.perf_counter()
            record.total_ms = 1000 * (self._answered - begun)
            self._tell(record)

    def _plain(self, call: dict[str, Any], record: Record, begun: float) -> None:
        answer = self._openai.chat.completions.with_raw_response.create(**call)
        body = answer.parse()
        record.status, record.outcome = answer.status_code, "ok"
        record.receipt = receipt_of(answer.headers)
        record.tokens = body.usage.completion_tokens
        record.prompt_tokens = body.usage.prompt_tokens

    def _stream(self, call: dict[str, Any], record: Record, begun: float) -> None:
        last = 0.0
        with self._openai.chat.completions.create(
            **call, stream=True, stream_options={"include_usage": True}
        ) as chunks:
            record.status = chunks.response.status_code
            for chunk in chunks:
                now = time.perf_counter()
                if chunk.usage is not None:
                    record.outcome = "ok"
                    record.tokens = chunk.usage.completion_tokens
                    record.prompt_tokens = chunk.usage.prompt_tokens
                    record.receipt = (chunk.model_extra or {}).get("receipt", {})
                if not any(choice.delta.content for choice in chunk.choices):
                    continue
                if last:
                    record.gaps_ms.append(1000 * (now - last))
                else:
                    record.first_token_ms = 1000 * (now - begun)
                last = now
        if record.outcome != "ok":
            record.outcome, record.error = "failed", "the stream ended without its usage"

    def _tell(self, record: Record) -> None:
        self.environment.events.request.fire(
            request_type="POST",
            name=record.name,
            response_time=record.total_ms,
            response_length=0,
            exception=None if record.outcome == "ok" else RuntimeError(record.error),
            context={},
        )
