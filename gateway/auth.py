"""Who may ask: one key, or none on loopback."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config import Settings, SettingsError, read_secret
from gateway.errors import Unauthorized

PUBLIC_PATHS = frozenset({"/health", "/ready"})


class Keys:
    """The accepted keys, kept as digests. No keys: nobody is asked."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    @classmethod
    def from_settings(cls, settings: Settings) -> Keys:
        """Read the keys. Raises SettingsError when there is none and others than this machine can connect."""
        found = [settings.api_key.get_secret_value()] if settings.api_key else []
        if settings.api_key_file:
            found += _keys_in(read_secret(settings.api_key_file, "GATEWAY_API_KEY_FILE"))
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


def _keys_in(text: str) -> list[str]:
    keys = [line.strip() for line in text.splitlines()]
    return [key for key in keys if key and not key.startswith("#")]


class RequireKey:
    """Refuses every request without a key, but for the public paths. New routes are locked by default."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PUBLIC_PATHS:
            self._keys.check(_header(scope, b"authorization"), _header(scope, b"x-api-key"))
        await self._app(scope, receive, send)


def _header(scope: Scope, wanted: bytes) -> str | None:
    for name, value in scope["headers"]:
        if name == wanted:
            return bytes(value).decode("latin-1")
    return None
