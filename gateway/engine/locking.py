"""A lock between processes that needs nothing but a file system."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

_POLL_S = 0.1
STALE_S = 900.0
"""A lock that was not touched for this long was left by a process that died."""


class LockTimeout(Exception):
    """Somebody else held the lock for too long."""


@contextlib.contextmanager
def file_lock(path: Path, *, wait_s: float = STALE_S, stale_s: float = STALE_S) -> Iterator[None]:
    """Hold ``path`` as a lock. Blocks (polling) while another process has it. Raises LockTimeout.

    It is made with O_EXCL, which every system has, and not with flock, which Windows and some network file
    systems lack. The price is that a killed holder leaves it behind; its process id is inside to tell.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline_s = time.monotonic() + wait_s
    while not _take(path):
        if _abandoned(path, stale_s):
            path.unlink(missing_ok=True)
        elif time.monotonic() > deadline_s:
            raise LockTimeout(f"{path} is held by another process; if there is none, delete it")
        else:
            time.sleep(_POLL_S)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _take(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        file.write(str(os.getpid()))
    return True


def _abandoned(path: Path, stale_s: float) -> bool:
    try:
        age_s = time.time() - path.stat().st_mtime
        holder = int(path.read_text() or 0)
    except (OSError, ValueError):
        return False  # released, or just being written
    return age_s > stale_s or (holder > 0 and not _alive(holder))


def _alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # asking would end the process there; the age decides
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
