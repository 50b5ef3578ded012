"""One request on the fast path: called by the client's connection and by the engine's, until it is over."""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import TYPE_CHECKING, Final, Protocol

from gateway.answers import Answer, Receipt
from gateway.api.context import error_response
from gateway.api.receipt_lines import header_lines
from gateway.attempts import outcome_of
from gateway.errors import GatewayError, InternalError
from gateway.fastpath import accounts
from gateway.fastpath.wishes import Enough
from gateway.journey import kind_of
from gateway.schemas import Completed, Piece, RawTokens
from gateway.tickets import Begun, Ticket
from gateway.upstream.base import is_silence, is_suspect
from gateway.upstream.push import Push

if TYPE_CHECKING:
    from gateway.fastpath.entry import FastPath
    from gateway.fastpath.settled import Form
    from gateway.fastpath.wishes import Head, Wish
    from gateway.preparing import Prepared

logger = logging.getLogger("gateway.fastpath")

_END: Final = b"0\r\n\r\n"


class Client(Protocol):
    """The connection that a request came on."""

    @property
    def transport(self) -> asyncio.Transport: ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def opening(self, status: int = 200) -> bytes:
        """The status line, and the headers that every answer has."""
        ...

    def over(self, passage: Passage) -> None:
        """The whole answer was written."""
        ...

    def hand_over(self, passage: Passage, begun: Begun) -> None:
        """The request goes on the ordinary way."""
        ...


class _Nobody:
    """Whom uvicorn tells that something has happened to a request: here the connection calls instead."""

    def set(self) -> None: ...


class Passage:
    """See the module. To uvicorn it is the cycle of request and response that its connection is in."""

    __slots__ = (
        "_accounts",
        "_client",
        "_counting",
        "_first_token",
        "_form",
        "_gap_at",
        "_given",
        "_head",
        "_path",
        "_prepared",
        "_push",
        "_sent",
        "_ticket",
        "_tokens",
        "_url",
        "_wish",
        "disconnected",
        "keep_alive",
        "response_complete",
    )
    message_event: Final = _Nobody()

    def __init__(
        self,
        path: FastPath,
        client: Client,
        wish: Wish,
        prepared: Prepared,
        form: Form,
        head: Head,
        ticket: Ticket,
        book: accounts.Accounts,
    ) -> None:
        self._path = path
        self._client = client
        self._wish = wish
        self._prepared = prepared
        self._form = form
        self._head = head
        self._ticket = ticket
        self._accounts = book
        self._push: Push | None = None
        self._counting: asyncio.Task[None] | None = None
        self._first_token = self._gap_at = 0.0
        self._tokens = 0
        self._given = False  # something of the answer
        self.keep_alive = head.known.keep_alive
        self.response_complete = self.disconnected = False

    @property
    def model(self) -> str:
        """Who answers."""
        return self._prepared.spec.id

    def begin(self) -> None:
        """Call the engine. A failure may be known before this returns."""
        prepared, asked, path = self._prepared, self._wish.asked, self._path
        self._accounts.opened()
        path.entered(self)
        self._sent = perf_counter()
        self._url = url = self._ticket.visit(self._sent)
        pushed = self._form.push(url, prepared.prompt.text, tokens=asked.stream, raw=True)
        push = self._push = Push(path.http, pushed, path.clocks(prepared.spec), self, path.alarms)
        push.begin(self._head.known.trace)

    # ------------------------------------------------------------ the engine's side

    def began(self) -> None:
        self._first_token = perf_counter()
        self._ticket.heard(self._first_token)
        figures = self._accounts.figures
        figures.queue_s.observe(self._ticket.queue_s)
        figures.first_token_s.observe(self._first_token - self._sent)

    def passed(self, event: bytes) -> None:
        try:
            self._count(1)
            chunk = self._wish.passed(event)
            if self._given and chunk:
                self._client.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            elif chunk:
                self._write(chunk)
        except Enough as enough:
            self._enough(enough)
        except Exception as error:  # nobody above would see it: the answer must not hang
            self._fault(error)

    def came(self, piece: Piece) -> None:
        try:
            if isinstance(piece, Completed):
                self._completed(piece)
            else:
                self._count(piece.count if isinstance(piece, RawTokens) else 1)
                if chunk := self._wish.chunk(piece):
                    self._write(chunk)
        except Enough as enough:
            self._enough(enough)
        except Exception as error:  # the same
            self._fault(error)

    def _enough(self, enough: Enough) -> None:
        """The text ends in the middle of a token, which happens rarely enough for a task. The engine is let
        go, so nobody but its tokeniser can say how long the prompt is."""
        self._cancel()
        if enough.chunk:
            self._write(enough.chunk)
        self._counting = asyncio.create_task(self._cut(enough.tokens))

    async def _cut(self, tokens: int) -> None:
        try:
            prompt_tokens = await self._path.count_tokens(self._prepared)
            self._counting = None
            self._completed(Completed("", "stop_sequence", tokens, prompt_tokens, None))
        except Exception as error:  # the same
            self._fault(error)

    def _fault(self, error: Exception) -> None:
        """An error of ours."""
        logger.error("internal error", exc_info=error, extra={"request_id": self._head.request_id})
        self._cancel()
        fault = InternalError(
            "Something went wrong inside the gateway.", hint="The log has more under this request id."
        )
        self.failed(fault)

    def _count(self, tokens: int) -> None:
        """Between tokens that come together is no time."""
        figures, now = self._accounts.figures, perf_counter()
        self._ticket.heard(now)
        if self._tokens:
            figures.between_tokens_s.observe(now - self._gap_at)
        for _ in range(tokens - 1):
            figures.between_tokens_s.observe(0.0)
        self._gap_at = now
        self._tokens += tokens
        figures.tokens_out.value += tokens

    def _completed(self, done: Completed) -> None:
        finished = perf_counter()
        self._ticket.heard(finished)
        answer = self._answer(done, finished)
        # Before anything is written: what cannot be counted is not answered.
        self._accounts.figures.ended(done, self._tokens, finished - self._first_token)
        if self._wish.asked.stream:
            self._write(self._wish.last(answer), _END)
        else:
            self._whole(answer)
        self._ticket.left("answered", now=finished)
        self._ticket.close()
        total_s = perf_counter() - self._head.started
        self._accounts.succeeded(total_s)
        self._done("200", total_s, tokens=done.completion_tokens)

    def _answer(self, done: Completed, finished: float) -> Answer:
        receipt = Receipt.of(
            queue_s=self._ticket.queue_s,
            load_s=0.0,
            prefill_s=self._first_token - self._sent,
            decode_s=finished - self._first_token,
            total_s=finished - self._head.started,
        )
        return Answer(
            model_id=self._prepared.spec.id,
            text=done.text,
            finish_reason=done.finish_reason,
            prompt_tokens=done.prompt_tokens,
            completion_tokens=done.completion_tokens,
            seed=done.seed,
            receipt=receipt,
            details=done.details if self._prepared.parameters.get("details") else None,
        )

    def failed(self, error: GatewayError) -> None:
        try:
            self._fail(error)
        except Exception:  # there is nothing left to say: the client must not wait for it
            logger.exception("internal error", extra={"request_id": self._head.request_id})
            self._client.transport.abort()

    def _fail(self, error: GatewayError) -> None:
        if not self._given:
            self._give_up(error)
            return
        if (kind := kind_of(error)) is not None:
            self._path.metrics.count("gateway_upstream_errors_total", model=self._prepared.spec.id, kind=kind)
        self._write(self._wish.error(error), _END)
        self._ticket.left(outcome_of(error))
        if is_suspect(error):
            self._ticket.suspect(str(error), silent=is_silence(error))
        self._ticket.close()
        self._accounts.ended(error.type, "200", f"{error.status // 100}xx")
        self._done("200", perf_counter() - self._head.started)

    def _give_up(self, error: GatewayError) -> None:
        """Nothing was given to the client yet: the ordinary way knows what may still be done."""
        self._ended()
        begun = Begun(self._ticket, self._url, error, self._sent, self._first_token)
        self._client.hand_over(self, begun)

    def identity(self) -> dict[str, object]:
        """By what the log and the receipt know the request, wherever it goes."""
        return {"request_id": self._head.request_id, "started": self._head.started}

    # ------------------------------------------------------------ the client's side

    def left(self) -> None:
        """The client closed its connection."""
        if self.response_complete:
            return
        self.disconnected = True
        self._cancel()
        self._leave("200" if self._given else "left")

    def _leave(self, status: str) -> None:
        self._ticket.close()
        self._accounts.ended("client_gone", status, "left")
        self._accounts.left("streaming" if self._first_token else "prefill")
        self._ended()
        self._log(status, perf_counter() - self._head.started)

    def hold(self) -> None:
        """The client does not read."""
        if self._push is not None:
            self._push.hold()

    def go_on(self) -> None:
        """It reads again."""
        if self._push is not None:
            self._push.go_on()

    def end(self, error: GatewayError) -> None:
        """The gateway ends, and has waited for its answers as long as it may."""
        if self.response_complete:
            return
        self._cancel()
        self.keep_alive = False
        if self._given:
            self._write(self._wish.error(error), _END)
            self._leave("200")
            self._client.over(self)
            return
        answer = error_response(error, self._head.request_id, self._path.envelope(self._head.known.path))
        head = self._head_bytes(header_lines(answer.headers), "", answer.status_code)
        self._client.transport.write(head + bytes(answer.body))
        self._leave(str(answer.status_code))
        self._client.over(self)

    # ------------------------------------------------------------ bytes

    def _whole(self, answer: Answer) -> None:
        body, lines = self._wish.plain(answer)
        head = self._head_bytes(lines, f"content-type: application/json\r\ncontent-length: {len(body)}\r\n")
        self._given = True
        self._client.transport.write(head + body)

    def _write(self, chunk: bytes, end: bytes = b"") -> None:
        framed = b"%x\r\n%b\r\n%b" % (len(chunk), chunk, end)
        if not self._given:
            self._given = True
            opening = self._wish.opening(self._prepared.spec.id)
            framed = self._head_bytes(opening, "transfer-encoding: chunked\r\n") + framed
        self._client.transport.write(framed)

    def _head_bytes(self, lines: str, framing: str, status: int = 200) -> bytes:
        """A whole head. ``framing``: the headers that say where the body ends."""
        close = "" if self.keep_alive else "connection: close\r\n"
        more = f"{lines}x-request-id: {self._head.request_id}\r\n{self._path.vary}{close}{framing}\r\n"
        return self._client.opening(status) + more.encode("latin-1")

    # ------------------------------------------------------------ the end

    def _done(self, status: str, total_s: float, tokens: int | None = None) -> None:
        self._ended()
        self._log(status, total_s, tokens)
        self._client.over(self)

    def _cancel(self) -> None:
        if self._push is not None:
            self._push.cancel()
        if self._counting is not None:
            self._counting.cancel()

    def _ended(self) -> None:
        # Both know this passage: what nobody needs any longer must go without the collector.
        self._push = self._counting = None
        self._accounts.closed()
        self._path.gone(self)
        self.response_complete = True

    def _log(self, status: str, total_s: float, tokens: int | None = None) -> None:
        self._accounts.log(self._head.request_id, status, total_s, tokens)
