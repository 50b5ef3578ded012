"""Who may go the fast way. What is decided here has no effect until a passage is given out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from random import Random
from time import perf_counter
from typing import Final, Protocol

from gateway import parameters as rules
from gateway.api.bodies import check_content_type
from gateway.api.context import Envelope, incoming_id, trace_headers
from gateway.auth import Keys, ThisMachine
from gateway.config import ModelSpec
from gateway.errors import GatewayError
from gateway.fastpath import accounts
from gateway.fastpath.heads import Headers, Heads, Known
from gateway.fastpath.means import Means
from gateway.fastpath.passage import Client, Passage
from gateway.fastpath.routes import readers
from gateway.fastpath.settled import Form, Settled, SettledBook
from gateway.fastpath.wishes import Head, Wish
from gateway.logs import AccessLog
from gateway.preparing import Prepared
from gateway.schemas import Clocks, Prompt
from gateway.upstream.alarms import Alarms
from gateway.upstream.transport import EngineHttp

logger = logging.getLogger("gateway.fastpath")

_ORDINARY: Final = frozenset({b"x-gateway-session", b"x-gateway-fallback", b"expect", b"upgrade"})
"""Requests with one of these headers go the ordinary way."""
_NOTHING: Final[Mapping[str, str]] = {}


class Pushes(Protocol):
    """An engine kind whose answers can be handed on as they come."""

    def form(self, stop: tuple[str, ...], parameters: Mapping[str, object]) -> Form:
        """``stop``: the strings that end a turn. Raises InvalidRequest for what JSON cannot hold."""
        ...


class FastPath:
    """Takes requests for models that are in, one after the other; owns none of them."""

    def __init__(
        self,
        means: Means,
        http: EngineHttp,
        engines: Mapping[str, Pushes],
        keys: Keys,
        machine: ThisMachine | None,
        envelope_of: Callable[[str], Envelope],
        access_log: AccessLog,
    ) -> None:
        """``engines``: those of the kinds that can push. ``machine``: who may ask where no key is needed."""
        self.http = http
        self.metrics = means.metrics
        self._access_log = access_log
        # What the ordinary way says where pages of other origins may ask. Those that do ask go that way.
        self.vary = "vary: Origin\r\n" if means.settings.web_pages else ""
        self._dice = Random()  # noqa: S311  an id of a request is no secret
        self._means = means
        self._line = means.generations
        self._preparer = self._line.preparer
        self._manager = means.manager
        self._engines = engines
        self._keys = keys
        self._machine = machine
        self._max_body_bytes = means.settings.max_body_bytes
        self.heads = Heads()
        self._readers = readers()
        self._settled = SettledBook()
        self.opening: tuple[object, bytes] = (None, b"")
        """What answers of status 200 begin with, and what that was made of."""
        self.alarms = Alarms()
        self._pages = bool(means.settings.web_pages)
        self._envelope_of = envelope_of
        self._accounts: dict[tuple[str, str], accounts.Accounts] = {}
        self._clocks: dict[str, Clocks] = {}
        self._passages: set[Passage] = set()

    def know(self, url: bytes, headers: Headers, *, keep_alive: bool) -> Known | None:
        """A head, read; None where such requests go the ordinary way, or will be refused there."""
        known = dict(headers)
        if len(known) != len(headers) or not _ORDINARY.isdisjoint(known):
            return None
        if self._pages and b"origin" in known:
            return None
        try:
            if self._machine is not None:
                self._machine.check(_text(known, b"host"), _text(known, b"origin"))
            check_content_type(_text(known, b"content-type"))
        except GatewayError:
            return None
        trace = trace_headers(headers) if b"traceparent" in known else _NOTHING
        return Known(url, url.decode(), known, keep_alive, incoming_id(headers), trace)

    def take(self, client: Client, known: Known, body: bytes) -> Passage | None:
        """A passage to be begun; None for a request that goes the ordinary way."""
        started, headers = perf_counter(), known.headers
        if len(body) > self._max_body_bytes:
            return None
        try:
            if self._keys.asked_for:
                self._keys.check(_text(headers, b"authorization"), _text(headers, b"x-api-key"))
            request_id = known.request_id or format(self._dice.getrandbits(64), "016x")
            head = Head(known, request_id, started)
            wish = self._readers[known.url](head, body, self._means)
            return None if wish is None else self._passage(client, wish, head)
        except GatewayError:
            return None  # it is refused on the ordinary way, in words
        except Exception:
            logger.exception("a request could not be taken the fast way")
            return None

    def _passage(self, client: Client, wish: Wish, head: Head) -> Passage | None:
        asked = wish.asked
        spec = asked.who.spec if asked.who is not None else None
        if spec is None or spec.engine not in self._engines:
            return None
        key = self._settled.key(spec, asked, wish.said())
        settled = self._settled.find(key)
        prepared = self._preparer.prepare(spec, asked, None if settled is None else settled.parameters)
        prompt = prepared.prompt
        if not isinstance(prompt, Prompt):
            return None
        if settled is None or settled.stop != prompt.stop:
            if not rules.streamable(prepared.parameters):
                return None
            form = self._engines[spec.engine].form(prompt.stop, prepared.parameters)
            settled = Settled(prepared.parameters, prompt.stop, form)
            self._settled.keep(key, settled)
        wish.answered_by(prepared)
        ticket = self._manager.place(spec.id, hash(prompt.text))
        if ticket is None:
            return None
        book = self._book(head.known.path, spec.id)
        return Passage(self, client, wish, prepared, settled.form, head, ticket, book)

    def _book(self, path: str, model: str) -> accounts.Accounts:
        found = self._accounts.get((path, model))
        if found is None:
            found = accounts.Accounts(self.metrics, self._line.figures, self._access_log, path, model)
            self._accounts[path, model] = found
        return found

    # ------------------------------------------------------------ for passages

    async def count_tokens(self, prepared: Prepared) -> int | None:
        """How many tokens the prompt has; None where nobody can say."""
        return await self._line.count_tokens(prepared.spec, prepared.prompt)

    def clocks(self, spec: ModelSpec) -> Clocks:
        """All of them, as nothing was tried yet."""
        found = self._clocks.get(spec.id)
        if found is None:
            times = spec.timeouts
            found = self._clocks[spec.id] = Clocks(
                times.connect_s, times.first_token_s, times.between_tokens_s, times.total_s
            )
        return found

    def envelope(self, path: str) -> Envelope:
        return self._envelope_of(path)

    def entered(self, passage: Passage) -> None:
        self._passages.add(passage)

    def gone(self, passage: Passage) -> None:
        self._passages.discard(passage)

    def end(self, error: GatewayError) -> None:
        """Break off what is still on its way, with ``error``."""
        for passage in [*self._passages]:
            passage.end(error)


def _text(known: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = known.get(name)
    return None if value is None else value.decode("latin-1")
