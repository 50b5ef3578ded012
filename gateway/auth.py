"""Who may ask: who has a key; on loopback without keys, this machine, but no web page that it shows."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import time
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from gateway import keyfile
from gateway.errors import Forbidden, Unauthorized
from gateway.keyfile import SCOPES, Key, KeyFileError, Scope, digest_of
from gateway.settings import Settings, SettingsError, read_secret

logger = logging.getLogger("gateway.auth")

RELOAD_S = 1.0
PUBLIC_PATHS = frozenset({"/health", "/ready"})


class Keys:
    """The accepted keys, kept as digests. No keys: nobody is asked.

    ``path`` is a file of further ones (see keyfile.py) that is looked at again while the gateway runs: a
    key that is revoked there is refused from then on. A file without keys lets nobody in; it does not open
    the door.
    """

    def __init__(
        self, keys: Iterable[str], path: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        everything = frozenset(SCOPES)
        self._fixed = tuple(Key("", everything, digest_of(key), "") for key in keys)
        self._path = path
        self._clock = clock
        self._kept: tuple[Key, ...] = keyfile.read(path) if path else ()
        self._stamp = _stamp(path) if path else None
        self._look_at = clock() + RELOAD_S

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
        kept = settings.kept_keys if settings.keys_file or settings.kept_keys.exists() else None
        try:
            keys = cls(found, kept)
        except KeyFileError as error:
            raise SettingsError(str(error)) from error
        if not keys.asked_for and not settings.loopback and not settings.allow_anonymous:
            raise SettingsError(
                f"GATEWAY_HOST={settings.host} can be reached from the network, but no key is set. "
                "Make one with `python -m gateway keys new NAME`, set GATEWAY_API_KEY or "
                "GATEWAY_API_KEY_FILE, listen on 127.0.0.1, "
                "or set GATEWAY_ALLOW_ANONYMOUS=true if something in front asks for a key."
            )
        return keys

    @property
    def asked_for(self) -> bool:
        return bool(self._fixed) or self._path is not None

    def check(self, authorization: str | None, api_key: str | None = None, scope: Scope = "generate") -> None:
        """Raises Unauthorized unless ``api_key`` is a key, or ``authorization`` is ``Bearer`` and a key;
        Forbidden when that key is not for ``scope``."""
        if not self.asked_for:
            return
        scheme, _, bearer = (authorization or "").partition(" ")
        offered = (api_key, bearer if scheme.lower() == "bearer" else None)
        known = [key for text in offered if text for key in self._known(text.strip())]
        if not known:
            what = "The API key is wrong." if authorization or api_key else "An API key is needed."
            raise Unauthorized(
                what, hint="Send the header `Authorization: Bearer <key>`, or `x-api-key: <key>`."
            )
        if not any(scope in key.scopes or "admin" in key.scopes for key in known):
            scopes = ", ".join(sorted({name for key in known for name in key.scopes}))
            raise Forbidden(
                f"This key is for {scopes}, and this route asks for {scope}.",
                hint=f"`python -m gateway keys new NAME --scope {scope}` makes one that may.",
            )

    def _known(self, text: str) -> list[Key]:
        digest = digest_of(text)
        # Every key is compared, and in constant time: nothing can be learnt from how long it took.
        return [key for key in (*self._fixed, *self._current()) if hmac.compare_digest(digest, key.digest)]

    def _current(self) -> tuple[Key, ...]:
        if self._path is not None and self._clock() >= self._look_at:
            self._look_at = self._clock() + RELOAD_S
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                self._reload(self._path)
        return self._kept

    def _reload(self, path: Path) -> None:
        try:
            self._kept = keyfile.read(path)
        except KeyFileError as error:
            logger.error("the keys are those of before: %s", error)  # noqa: TRY400  the text says it all


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What differs once a file was written or replaced; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def scope_of(method: str, path: str) -> Scope:
    """The scope that a route asks for: admin's is what changes something for others, and engines' logs."""
    if path == "/metrics":
        return "metrics"
    manages = path.startswith(("/v1/models/", "/v1/experiments/"))
    return "admin" if manages and (method == "POST" or path.endswith("/logs")) else "generate"


def _some(keys: list[str], source: str) -> list[str]:
    if not any(keys):
        raise SettingsError(f"{source} has no key in it. Put one there, or unset it to ask for none.")
    return keys


def _keys_in(text: str) -> list[str]:
    keys = [line.strip() for line in text.splitlines()]
    return [key for key in keys if key and not key.startswith("#")]


class ThisMachine:
    """The names of this machine. A web page from elsewhere asks under its own, even if that leads here."""

    def __init__(self, host: str, web_pages: Collection[str] = ()) -> None:
        self._host = host.lower()
        self._web_pages = web_pages

    def check(self, host: str | None, origin: str | None) -> None:
        """Raises Forbidden unless ``host`` (a header) is this machine, and ``origin`` too if there is one."""
        if not self._is_own(f"//{host or ''}"):
            what = f"This gateway is not known as {_cut(host) or 'a host without a name'}."
        elif origin is not None and origin not in self._web_pages and not self._is_own(origin):
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

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PUBLIC_PATHS:
            asks_for = scope_of(scope["method"], scope["path"])
            self._keys.check(_header(scope, b"authorization"), _header(scope, b"x-api-key"), asks_for)
            if self._machine is not None:
                self._machine.check(_header(scope, b"host"), _header(scope, b"origin"))
        await self._app(scope, receive, send)


def _header(scope: Connection, wanted: bytes) -> str | None:
    for name, value in scope["headers"]:
        if name == wanted:
            return bytes(value).decode("latin-1")
    return None
