"""What is asked of an engine. Pure."""

from __future__ import annotations

import httpx

from gateway.records import record
from gateway.upstream.address import split_name


@record
class Call:
    """What is asked of an engine; ``content`` is JSON."""

    method: str
    base_url: str
    path: str
    content: bytes | None = None

    def __str__(self) -> str:
        return self.address

    @property
    def address(self) -> str:
        """The address for people: without a user name or password that the URL may hold."""
        where, name = split_name(self.base_url)
        try:
            url = httpx.URL(where)
        except httpx.InvalidURL:
            return "the engine's address"
        place = f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}{url.path.rstrip('/')}{self.path}"
        return f"{place} ({name})" if name else place
