"""Who may ask: who has a key; on loopback without keys, this machine, but no web page that it shows."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config import Settings, SettingsError, read_secret
from gateway.errors import Forbidden, Unauthorized

PUBLIC_PATHS = frozenset({"/health", "/ready"})


class Keys:
    """The accepted keys, kept as digests. No keys: nobody is asked."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    @classmethod
    def from_settings(cls, settings: Settings) -> Keys:
        """Read the keys. Raises SettingsError when a setting for them holds none, and when there is none
        and others than this machine can connect."""
        found: list[str] = []
        if settings.api_key:
            found += _some([settings.api_key.get_secret_value().strip()], "GATEWAY_API_KEY")
        if path := settings.api_key_file:
            variable = "GATEWAY_API_KEY_FILE"
            found += _some(_keys_in(read_secret(path, variable)), f"{variable}={path}")
        if not found and not settings.loopback and not settings.allow_anonymous:
            raise SettingsError(
                f"GATEWAY_HOST={settings.host} can be reached from the network, but no key is set. "
                "Set GATEWAY_API_KEY or GATEWAY_API_KEY_FILE, listen on 127.0.0.1, "
                "or set GATEWAY_ALLOW_ANONYMOUS=true if something in front asks for a key."
            )
        return cls(found)

    @property
    def asked_for(self) -> bool:
        return bool(self._digests)

    def check(self, authorization: str | None, api_key: str | None = None) -> None:
        """Raises Unauthorized unless ``api_key`` is a key, or ``authorization`` is ``Bearer`` and a key."""
        if not self._digests:
            return
        scheme, _, bearer = (authorization or "").partition(" ")
        offered = (api_key, bearer if scheme.lower() == "bearer" else None)
        if not any(self._is_known(key.strip()) for key in offered if key):
            what = "The API key is wrong." if authorization or api_key else "An API key is needed."
            raise Unauthorized(
                what, hint="Send the header `Authorization: Bearer <key>`, or `x-api-key: <key>`."
            )

    def _is_known(self, key: str) -> bool:
        digest = hashlib.sha256(key.encode()).digest()
        # Every key is compared, and in constant time: nothing can be learnt from how long it took.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)


def _some(keys: list[str], source: str) -> list[str]:
    if not any(keys):
        raise SettingsError(f"{source} has no key in it. Put one there, or unset it to ask for none.")
    return keys


def _keys_in(text: str) -> list[str]:
    keys = [line.strip() for line in text.splitlines()]
    return [key for key in keys if key and not key.startswith("#")]


class ThisMachine:
    """The names of this machine. A web page from elsewhere asks under its own, even if that leads here."""

    def __init__(self, host: str) -> None:
        self._host = host.lower()

    def check(self, host: str | None, origin: str | None) -> None:
        """Raises Forbidden unless ``host`` (a header) is this machine, and ``origin`` too if there is one."""
        if not self._is_own(f"//{host or ''}"):
            what = f"This gateway is not known as {_cut(host) or 'a host without a name'}."
        elif origin is not None and not self._is_own(origin):
            what = f"Web pages from {_cut(origin)} may not use this gateway."
        else:
            return
        hint = "Ask it at 127.0.0.1 or localhost, or set GATEWAY_API_KEY and send that key."
        raise Forbidden(what, hint=hint)

    def _is_own(self, url: str) -> bool:
        name = _name_in(url)
        return name in ("localhost", self._host) or _is_loopback(name)


# The same few hosts and origins come with every request, and taking them apart costs more than all else here.
@lru_cache(maxsize=64)
def _name_in(url: str) -> str:
    """The host that a URL names; nothing when it is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


@lru_cache(maxsize=64)
def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _cut(text: str | None) -> str:
    return (text or "")[:80]


class RequireKey:
    """Refuses every request without a key, but for the public paths. New routes are locked by default.

    With ``machine`` it refuses those that come by another name, or from a web page of another one.
    """

    def __init__(self, app: ASGIApp, keys: Keys, machine: ThisMachine | None) -> None:
        self._app = app
        self._keys = keys
        self._machine = machine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PUBLIC_PATHS:
            self._keys.check(_header(scope, b"authorization"), _header(scope, b"x-api-key"))
            if self._machine is not None:
                self._machine.check(_header(scope, b"host"), _header(scope, b"origin"))
        await self._app(scope, receive, send)


def _header(scope: Scope, wanted: bytes) -> str | None:
    for name, value in scope["headers"]:
        if name == wanted:
            return bytes(value).decode("latin-1")
    return None
