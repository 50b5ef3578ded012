"""The HTTP side of the chat: the gateway's native API, and nothing else, as typed values."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, Self

import httpx

from gateway.chat.events import (
    WAITING_KINDS,
    Answer,
    Json,
    Lost,
    Model,
    NotAGateway,
    Piece,
    Refused,
    Scenario,
    Silent,
    Unreachable,
    Waiting,
    parse_answer,
    parse_model,
    parse_scenario,
    parse_waiting,
)
from gateway.wire.sse import SseDecoder, SseEvent, SseOverflow

CONNECT_TIMEOUT_S: Final = 5.0
# The gateway has clocks of its own and speaks every few seconds while a model loads. This one is only for a
# connection that died without a word.
SILENCE_TIMEOUT_S: Final = 300.0
LIST_TIMEOUT_S: Final = 5.0


class GatewayClient:
    """One gateway at ``url``. Every method raises a ChatFailure when no good answer comes."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            # A connection that idled between two messages may be gone: each message gets a fresh one.
            limits=httpx.Limits(max_keepalive_connections=0),
            # Reading the certificates takes longer than all the rest of the start.
            verify=self.url.startswith("https:"),
            # A proxy from the environment is for the world outside, not for this machine.
            trust_env=not is_loopback(self.url),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def generate(self, body: Json) -> AsyncGenerator[Piece | Waiting | Answer]:
        """Stream one answer; an Answer comes last. Closing the iterator closes the connection."""
        whole = {**body, "stream": True, "events": True}
        try:
            async with self._http.stream(
                "POST", "/v1/generate", content=encode(whole), headers=_JSON
            ) as response:
                if response.status_code != httpx.codes.OK:
                    await response.aread()
                    raise self._refusal(response)
                async with aclosing(self._events(response)) as events:
                    async for event in events:
                        yield event
                        if isinstance(event, Answer):
                            return
        except httpx.RequestError as error:
            raise self._failure(error) from error
        raise Lost

    async def models(self) -> tuple[Model, ...]:
        return tuple(parse_model(entry) for entry in await self._list("/v1/models"))

    async def scenarios(self) -> tuple[Scenario, ...]:
        return tuple(parse_scenario(entry) for entry in await self._list("/v1/scenarios"))

    async def _list(self, path: str) -> list[Json]:
        try:
            response = await self._http.get(path, timeout=LIST_TIMEOUT_S)
        except httpx.RequestError as error:
            raise self._failure(error) from error
        if response.status_code != httpx.codes.OK:
            raise self._refusal(response)
        entries = _object(response.content).get("data")
        if not isinstance(entries, list):
            raise NotAGateway(self.url, response.status_code)
        return [entry for entry in entries if isinstance(entry, dict)]

    async def _events(self, response: httpx.Response) -> AsyncGenerator[Piece | Waiting | Answer]:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise NotAGateway(self.url, response.status_code)
        decoder = SseDecoder()
        async for chunk in response.aiter_bytes():
            try:
                found = decoder.feed(chunk)
            except SseOverflow as error:
                raise NotAGateway(self.url, response.status_code) from error
            for event in found:
                if isinstance(event, SseEvent) and (value := _read(event)) is not None:
                    yield value

    def _refusal(self, response: httpx.Response) -> Refused | NotAGateway:
        error = _object(response.content).get("error")
        if not isinstance(error, dict):
            return NotAGateway(self.url, response.status_code)
        after = response.headers.get("retry-after", "")
        return Refused({"retry_after_s": int(after), **error} if after.isdigit() else error)

    def _failure(self, error: httpx.RequestError) -> Unreachable | Silent | Lost:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol):
            return Unreachable(self.url, _reason(error))
        if isinstance(error, httpx.TimeoutException):
            silence_s = error.request.extensions.get("timeout", {}).get("read") or SILENCE_TIMEOUT_S
            return Silent(self.url, silence_s)
        return Lost()


_JSON: Final = {"Content-Type": "application/json", "Accept": "text/event-stream"}


def encode(body: Json) -> bytes:
    """JSON in UTF-8. Lone surrogates, which a terminal in a wrong locale can produce, become U+FFFD."""
    text = json.dumps(body, ensure_ascii=False)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def is_loopback(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _read(event: SseEvent) -> Piece | Waiting | Answer | None:
    data = _object(event.data)
    if event.event == "error":
        error = data.get("error")
        raise Refused(error if isinstance(error, dict) else {})
    if event.event == "token":
        return Piece(str(data.get("text") or ""))
    if event.event == "done":
        return parse_answer(data)
    return parse_waiting(event.event, data) if event.event in WAITING_KINDS else None


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _reason(error: httpx.RequestError) -> str:
    """The innermost cause in the operating system's words; httpx's own are about its attempts."""
    if isinstance(error, httpx.TimeoutException):
        return f"no connection within {CONNECT_TIMEOUT_S:.0f} s"
    cause: BaseException = error
    while inner := cause.__cause__ or cause.__context__:
        cause = inner
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
    return str(error) or type(error).__name__
