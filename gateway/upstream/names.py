"""Finds out which addresses the host names of one model's engines stand for, again and again."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence

from gateway.upstream.address import Named, named, shown, split_name

logger = logging.getLogger("gateway.models")

LookUp = Callable[[str, int], Awaitable[Sequence[str]]]
"""All addresses of a host name, as numbers. Raises OSError when that cannot be said."""


async def system_look_up(host: str, port: int) -> Sequence[str]:
    """What the system says (/etc/hosts, DNS), version 4 and 6. In a thread: nothing here is held up."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(where[0]) for *_, where in found]


class Names:
    """The addresses behind ``urls``. A name that cannot be resolved keeps those that it had."""

    def __init__(self, urls: Iterable[str], look_up: LookUp) -> None:
        self._look_up = look_up
        self._names = {url: named(url) for url in urls}
        self._found: dict[str, tuple[str, ...]] = {}
        self._silent: set[str] = set()
        self._under_way: asyncio.Task[None] | None = None

    @property
    def any(self) -> bool:
        """Whether there is anything to be looked up."""
        return any(name is not None for name in self._names.values())

    @property
    def known(self) -> bool:
        """Whether each name has been resolved once."""
        return all(name is None or url in self._found for url, name in self._names.items())

    def urls(self) -> list[str]:
        """Every address known by now, in an order that does not change by itself."""
        listed = [at for url in self._names for at in self._found.get(url, (url,))]
        # An engine that is reached by a name and by a number, or by two names, is one engine.
        return list({split_name(at)[0]: at for at in reversed(listed)}.values())[::-1]

    async def refresh(self) -> None:
        """Look all names up once, side by side. Takes as long as the resolver does.

        Whoever gives up leaves it to the next who asks: look-ups of a resolver that hangs must not pile up.
        """
        if self._under_way is None or self._under_way.done():
            self._under_way = asyncio.create_task(self._refresh())
        await asyncio.shield(self._under_way)

    async def _refresh(self) -> None:
        await asyncio.gather(*(self._resolve(name) for name in self._names.values() if name is not None))

    async def _resolve(self, name: Named) -> None:
        try:
            found = await self._look_up(name.host, name.port)
        except (OSError, UnicodeError) as error:
            self._unresolved(name, getattr(error, "strerror", None) or str(error))
            return
        if not found:
            self._unresolved(name, "it has no address")
            return
        if name.url in self._silent:
            self._silent.discard(name.url)
            logger.info("%s is resolved again", name.host)
        # Resolvers turn the order round with each answer.
        self._found[name.url] = tuple(name.at(address) for address in sorted(set(found)))

    def _unresolved(self, name: Named, reason: str) -> None:
        if name.url not in self._silent:
            self._silent.add(name.url)
            known = ", ".join(map(shown, self._found.get(name.url, ()))) or "none"
            logger.warning("%s cannot be resolved (%s); addresses kept: %s", name.host, reason, known)
