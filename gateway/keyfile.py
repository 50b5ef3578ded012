"""Keys in a file, as digests: made once, shown once, and revoked while the gateway runs.

One line per key: its name, its scopes, the digest, the day. Keys are 256 random bits, so that a plain digest
is enough: there is nothing to guess that a slow one would protect.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

Scope = Literal["generate", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""generate: ask models. metrics: read /metrics. admin: load, unload, reset, read logs, and all the others."""

PREFIX = "gw-"
_HEAD = "# Keys of the gateway: name, scopes, digest, day. The keys themselves are nowhere.\n"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class KeyFileError(Exception):
    """A file of keys that cannot be used, or a request about it that cannot be met."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key as it is kept. ``digest`` is SHA-256."""

    name: str
    scopes: frozenset[Scope]
    digest: bytes
    created: str

    def line(self) -> str:
        scopes = ",".join(scope for scope in SCOPES if scope in self.scopes)
        return f"{self.name} {scopes} sha256:{self.digest.hex()} {self.created}\n"


def digest_of(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def read(path: Path) -> tuple[Key, ...]:
    """All keys of a file; none when there is no file. Raises KeyFileError naming the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path} cannot be read: {error}.") from error
    lines = enumerate(text.splitlines(), 1)
    return tuple(_key(path, at, line) for at, line in lines if line.strip() and not line.startswith("#"))


def _key(path: Path, at: int, line: str) -> Key:
    parts = line.split()
    if len(parts) == 4 and _NAME.fullmatch(parts[0]) and (digest := _DIGEST.fullmatch(parts[2])):
        named = parts[1].split(",")
        scopes = frozenset(scope for scope in SCOPES if scope in named)
        if scopes and len(scopes) == len(named):
            return Key(parts[0], scopes, bytes.fromhex(digest[1]), parts[3])
    raise KeyFileError(
        f"{path}: line {at} is no key. Each line is `NAME SCOPES sha256:DIGEST DAY`, with scopes out of "
        f"{','.join(SCOPES)}; `python -m gateway keys new` writes such lines."
    )


def new(path: Path, name: str, scopes: Iterable[Scope]) -> str:
    """Add a key and return it: the only time that it can be seen. Raises KeyFileError."""
    if not _NAME.fullmatch(name):
        raise KeyFileError(
            f"{name!r} is no name for a key: letters, digits, `.`, `_`, `-`, at most 64, "
            "beginning with a letter or digit."
        )
    secret = PREFIX + secrets.token_urlsafe(32)
    with _locked(path):
        keys = read(path)
        if any(key.name == name for key in keys):
            raise KeyFileError(f"There is a key `{name}` in {path} already. Revoke it, or choose a new name.")
        today = datetime.now(UTC).date().isoformat()
        _write(path, [*keys, Key(name, frozenset(scopes), digest_of(secret), today)])
    return secret


def revoke(path: Path, name: str) -> None:
    """Take a key away. A gateway that runs notices within a second. Raises KeyFileError."""
    with _locked(path):
        keys = read(path)
        left = [key for key in keys if key.name != name]
        if len(left) == len(keys):
            names = ", ".join(key.name for key in keys) or "none"
            raise KeyFileError(f"There is no key `{name}` in {path}. There are: {names}.")
        _write(path, left)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two commands at once must not lose each other's key."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror or error}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, keys: Iterable[Key]) -> None:
    """As a whole or not at all, and readable for its owner alone."""
    part = path.with_name(f"{path.name}.part")
    try:
        descriptor = os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(_HEAD)
            file.writelines(key.line() for key in keys)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror or error}.") from error
