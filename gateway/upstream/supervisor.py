"""Speaks to a supervisor: what its engine does, start it, stop it, watch it.

Every failure is one exception, ``SupervisorUnreachable``, with the address and the reason. It never holds
the token.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import httpx

from gateway.errors import ModelUnavailable

State = Literal["stopped", "running", "stopping", "failed"]
Phase = Literal["starting", "downloading", "loading", "warming_up", "ready"]

# A supervisor answers from memory and within milliseconds, except while the machine swaps.
_ANSWER = httpx.Timeout(10.0, connect=3.0)
# It writes a comment every 15 s into a stream: three missed ones are a dead connection.
_STREAM = httpx.Timeout(10.0, connect=3.0, read=45.0)


class SupervisorUnreachable(ModelUnavailable):
    """The supervisor did not answer, refused, or answered what it should not.

    ``status_code`` is its HTTP status where there was one: 409 means "not in this state", so try again
    after the next event.
    """

    def __init__(
        self, url: str, reason: str, *, status_code: int | None = None, hint: str | None = None
    ) -> None:
        super().__init__(f"the supervisor at {url} {reason}", hint=hint)
        self.url = url
        self.reason = reason
        self.status_code = status_code


@dataclass(frozen=True, slots=True)
class SupervisorStatus:
    """``since_unix_s`` is when ``state`` was entered; ``progress`` is of ``phase``, 0 to 1.

    ``memory_bytes`` is None unless it was asked for.
    """

    state: State
    since_unix_s: float
    pid: int | None
    exit_code: int | None
    exit_signal: int | None
    phase: Phase | None
    progress: float | None
    starts: int
    command: tuple[str, ...]
    lines: tuple[str, ...]
    memory_bytes: int | None
    reason: str | None


def parse_status(answer: object) -> SupervisorStatus:
    """Raises ValueError on anything that is not a status."""
    if not isinstance(answer, Mapping):
        raise ValueError("a status must be a JSON object")  # noqa: TRY004 - one error for all that came wrong
    state, phase, since = answer.get("state"), answer.get("phase"), answer.get("since")
    if state not in get_args(State) or not isinstance(since, int | float) or not math.isfinite(since):
        raise ValueError(f"not a status: state {state!r}, since {since!r}")
    return SupervisorStatus(
        state=cast("State", state),
        since_unix_s=float(since),
        pid=_whole(answer.get("pid")),
        exit_code=_whole(answer.get("exit_code")),
        exit_signal=_whole(answer.get("exit_signal")),
        # A newer supervisor may know phases that we do not: better no phase than no status.
        phase=cast("Phase", phase) if phase in get_args(Phase) else None,
        progress=_fraction(answer.get("progress")),
        starts=_whole(answer.get("starts")) or 0,
        command=_texts(answer.get("command")),
        lines=_texts(answer.get("lines")),
        memory_bytes=_whole(answer.get("memory_bytes")),
        reason=answer["reason"] if isinstance(answer.get("reason"), str) else None,
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _fraction(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


class SupervisorClient:
    """The client is handed in and stays its owner's."""

    def __init__(self, http: httpx.AsyncClient, url: str, token: str | None) -> None:
        self.url = url.rstrip("/")
        self._http = http
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    def __repr__(self) -> str:
        return f"SupervisorClient({self.url!r})"

    async def status(self, *, memory: bool = False) -> SupervisorStatus:
        """``memory``: measure ``memory_bytes`` too, which keeps the supervisor busy for 30 ms for each GB."""
        return self._status(await self._call("GET", "/status", params={"memory": 1} if memory else None))

    async def start(self) -> SupervisorStatus:
        """Asks for a start and returns at once. While the engine stops: raises with status_code 409."""
        return self._status(await self._call("POST", "/start"))

    async def stop(self, grace_s: float | None = None) -> SupervisorStatus:
        """Asks for a stop and returns at once; after ``grace_s`` the engine is killed."""
        body = {} if grace_s is None else {"grace_s": grace_s}
        return self._status(await self._call("POST", "/stop", body=body))

    async def logs(self, tail: int = 200) -> list[str]:
        """The newest lines, oldest first. The supervisor keeps 2000."""
        answer = await self._call("GET", "/logs", params={"tail": tail})
        return answer.text.splitlines()

    async def events(self) -> AsyncGenerator[SupervisorStatus]:
        """The status now and at every change, until the connection ends. Close it with ``aclosing``."""
        request = self._http.build_request(
            "GET", f"{self.url}/events", headers=self._headers, timeout=_STREAM
        )
        response = await self._send(request, stream=True)
        try:
            if response.is_error:
                await response.aread()
                raise self._refusal(response)
            async for line in response.aiter_lines():
                # The supervisor writes each event's data on one line; all else is names and comments.
                if line.startswith("data:"):
                    yield self._parse(line.removeprefix("data:"))
        except httpx.TransportError:
            return  # the connection ended, and who reads decides whether to come back
        finally:
            await response.aclose()

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, int] | None = None,
    ) -> httpx.Response:
        request = self._http.build_request(
            method, f"{self.url}{path}", headers=self._headers, json=body, params=params, timeout=_ANSWER
        )
        response = await self._send(request)
        if response.is_error:
            raise self._refusal(response)
        return response

    async def _send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        try:
            return await self._http.send(request, stream=stream)
        except httpx.RequestError as error:
            reason = f"cannot be reached: {str(error) or type(error).__name__}"
            raise SupervisorUnreachable(
                self.url, reason, hint="see whether it runs and listens there"
            ) from error

    def _refusal(self, response: httpx.Response) -> SupervisorUnreachable:
        status_code = response.status_code
        if status_code == 401:
            reason = "does not accept the token" if self._headers else "asks for a token and none is set"
            hint = "give the gateway the token that the supervisor was started with"
            return SupervisorUnreachable(self.url, reason, status_code=status_code, hint=hint)
        return SupervisorUnreachable(
            self.url, f"answered {status_code}: {_message(response)}", status_code=status_code
        )

    def _status(self, response: httpx.Response) -> SupervisorStatus:
        return self._parse(response.text)

    def _parse(self, text: str) -> SupervisorStatus:
        try:
            return parse_status(json.loads(text))
        except ValueError as error:
            hint = "see whether something else listens there"
            raise SupervisorUnreachable(self.url, f"sent no status: {error}", hint=hint) from error


def _message(response: httpx.Response) -> str:
    """What the supervisor said in words, or the beginning of whatever came."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
