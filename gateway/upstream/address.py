"""Addresses of engines: one host name can stand for several, and the engine still wants to hear its name.

The address of one of them is the registry's ``url`` with a number in place of the name, and the name behind a
``#``: ``http://10.0.0.5:8080/v1#tgi:8080``. That part of a URL is never sent; none in a registry has it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

_DEFAULT_PORT = 80


@dataclass(frozen=True, slots=True)
class Named:
    """A ``url`` whose host is a name that other machines may share."""

    url: str
    host: str
    port: int

    def at(self, address: str) -> str:
        """The same place at one of the name's addresses."""
        parts = urlsplit(self.url)
        userinfo, found, authority = parts.netloc.rpartition("@")
        host = f"[{address}]" if ":" in address else address
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{userinfo}{found}{host}{port}{parts.path}#{authority}"


def named(url: str) -> Named | None:
    """``url`` as something to be looked up; None where there is nothing to find.

    These are addresses as numbers, this very machine, and https: the name is what a certificate is for.
    """
    parts = urlsplit(url)
    host = parts.hostname
    if parts.scheme != "http" or not host or host == "localhost" or host.endswith(".localhost"):
        return None
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return Named(url, host, parts.port or _DEFAULT_PORT)
    return None


def split_name(url: str) -> tuple[str, str | None]:
    """The URL to connect to, and what the Host header must say in place of it."""
    where, _, name = url.partition("#")
    return where, name or None


def shown(url: str) -> str:
    """For people: without user name and password, and with the name that it was found by."""
    where, name = split_name(url)
    scheme, _, rest = where.partition("://")
    authority, slash, path = rest.partition("/")
    place = f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}".rstrip("/")
    return f"{place} ({name})" if name else place
