"""What every user does: ask in one of two ways, keep a record of it, and pause."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import gevent
from locust import FastHttpUser
from locust.contrib.fasthttp import FAILURE_EXCEPTIONS, ResponseContextManager

from loadtest.desk import LEFT, Desk, find_desk
from loadtest.prompts import Ask, Target
from loadtest.records import Record
from loadtest.wire import events, receipt_of

PATH, ROUTE = "/v1/generate", "generate"
_REFUSALS = (429, 503)
IDLE_S = 4.0
"""A connection that nothing is sent on for longer is not used again: a server may close it at any moment
after 5 s (uvicorn's default), and what is sent at that moment is lost. httpx gives them up after 5 s, too."""


class Gone(BaseException):
    """The user has had enough. Not an Exception: nothing on the way may take it for an error."""


@dataclass(slots=True)
class Asked:
    """One request on the native route. ``messages`` stand in place of the ask's own text.

    ``patience_s``: leaves after so many seconds; ``reads``: after so many tokens.
    """

    target: Target
    ask: Ask
    stream: bool = False
    messages: list[dict[str, str]] = field(default_factory=list)
    attempt: int = 1
    patience_s: float | None = None
    reads: int | None = None

    def body(self) -> bytes:
        said: dict[str, Any] = {"messages": self.messages} if self.messages else {"inputs": self.ask.text}
        if not self.messages:
            said |= {"scenario": self.ask.scenario, "language": self.ask.language}
        said |= {
            "model_id": self.target.model,
            "stream": self.stream,
            "parameters": {"max_new_tokens": self.ask.max_new_tokens},
        }
        return json.dumps(said, ensure_ascii=False).encode()


class GatewayUser(FastHttpUser):
    """Base of all users. Pauses ``--wait-s`` between requests."""

    abstract = True
    kind: ClassVar[str] = "plain"
    # A request may wait for its model; the gateway's own deadline is what ends that.
    network_timeout = 900.0
    connection_timeout = 30.0

    def on_start(self) -> None:
        desk = find_desk(self.environment)
        if desk is None:
            raise gevent.GreenletExit  # the run could not begin, and is ending: that was said once
        self.desk: Desk = desk
        self.prompts = self.desk.prompts(type(self).__name__)
        self._answered = 0.0

    def wait_time(self) -> float:
        return self.desk.settings.wait_s

    def ask(self, asked: Asked) -> tuple[Record, str]:
        """Send a request and read its answer; the record, and the text if it is whole."""
        record = self.record(asked.target.model, ROUTE, stream=asked.stream)
        record.attempt, record.asked_tokens = asked.attempt, asked.ask.max_new_tokens
        with self.kept(record), _patience(asked.patience_s):
            text = self._exchange(asked, record)
            return record, text
        return record, ""

    def record(self, model: str, route: str, *, stream: bool) -> Record:
        return Record(
            time.time(), type(self).__name__, self.kind, model, route, f"load-{secrets.token_hex(8)}", stream
        )

    @contextmanager
    def kept(self, record: Record) -> Iterator[None]:
        """Keeps the record however the block ends. Who leaves does so without an error."""
        begun = time.perf_counter()
        try:
            yield
        except Gone:
            record.outcome = "left"
            self._tell_left(record, 1000 * (time.perf_counter() - begun))
        finally:
            record.total_ms = record.total_ms or 1000 * (time.perf_counter() - begun)
            self.desk.add(record)

    def _tell_left(self, record: Record, after_ms: float) -> None:
        self.environment.events.request.fire(
            request_type=LEFT,
            name=record.name,
            response_time=after_ms,
            response_length=0,
            exception=None,
            context={},
        )

    def _exchange(self, asked: Asked, record: Record) -> str:
        headers = {
            "Content-Type": "application/json",
            "x-request-id": record.request_id,
            **self.desk.settings.headers,
        }
        if time.perf_counter() - self._answered > IDLE_S:
            self.client.client.clientpool.close()
        begun = time.perf_counter()
        with self.client.post(
            PATH,
            data=asked.body(),  # type: ignore[arg-type]  # bytes go through as they are
            name=record.name,
            headers=headers,
            stream=True,
            catch_response=True,
        ) as response:
            try:
                text = self._read(response, asked, record, begun)
            except FAILURE_EXCEPTIONS as error:
                text = ""
                _failed(record, f"{type(error).__name__}: {error}")
            finally:
                _close(response)
                self._answered = time.perf_counter()
            record.total_ms = 1000 * (time.perf_counter() - begun)
            response.request_meta["response_time"] = record.total_ms
            if record.outcome == "ok":
                response.success()
            else:
                response.failure(record.error)
        return text

    def _read(self, response: ResponseContextManager, asked: Asked, record: Record, begun: float) -> str:
        record.status = response.status_code
        if record.status == 0:
            _failed(record, f"no answer: {getattr(response, 'error', 'unknown')}")
            return ""
        headers = {name.lower(): str(value) for name, value in (response.headers or {}).items()}
        record.model = headers.get("x-gateway-model") or record.model
        if record.status != 200:
            _refused(record, headers.get("retry-after"), bytes(response.content or b""))
            return ""
        if asked.stream:
            return self._read_stream(response, asked, record, begun)
        response.request_meta["response_length"] = len(response.content or b"")
        body = json.loads(response.content or b"{}")
        record.receipt = receipt_of(headers)
        _whole(record, body)
        return str(body["generated_text"])

    def _read_stream(
        self, response: ResponseContextManager, asked: Asked, record: Record, begun: float
    ) -> str:
        last, size = 0.0, 0
        for event in events(response.stream):
            now = time.perf_counter()
            size += event.size
            response.request_meta["response_length"] = size
            if event.name == "token":
                record.tokens += 1
                if last:
                    record.gaps_ms.append(1000 * (now - last))
                else:
                    record.first_token_ms = 1000 * (now - begun)
                last = now
                if asked.reads is not None and record.tokens >= asked.reads:
                    raise Gone
            elif event.name == "done":
                body = event.json()
                record.receipt = body["receipt"]
                _whole(record, body)
                return str(body["generated_text"])
            elif event.name == "error":
                error = event.json()["error"]
                _failed(record, f"in the stream: {error['status']} {error['type']}: {error['message']}")
                return ""
        _failed(record, "the stream ended without its last event")
        return ""


@contextmanager
def _patience(seconds: float | None) -> Iterator[None]:
    with gevent.Timeout(seconds, Gone()):
        yield


def _close(response: ResponseContextManager) -> None:
    """An answer that was not read to its end loses its connection: that is how the gateway hears of it."""
    raw = getattr(response, "_response", None)  # an answer that never came has none
    if raw is not None:
        raw.release()


def _whole(record: Record, body: dict[str, Any]) -> None:
    record.outcome = "ok"
    record.tokens = int(body["usage"]["completion_tokens"])
    record.prompt_tokens = int(body["usage"]["prompt_tokens"] or 0)


def _failed(record: Record, why: str) -> None:
    record.outcome, record.error = "failed", why[:300]


def _refused(record: Record, retry_after: str | None, body: bytes) -> None:
    _failed(record, f"{record.status} {body.decode('utf-8', 'replace')}")
    if record.status in _REFUSALS and retry_after is not None and retry_after.isdigit():
        record.outcome, record.retry_after_s = "refused", float(retry_after)
