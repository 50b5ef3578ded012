"""One file from a model hub, by plain HTTPS, resumed where it broke off."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import httpx

DEFAULT_ENDPOINT = "https://huggingface.co"
_TIMEOUT = httpx.Timeout(30, connect=10)
_ATTEMPTS = 5
_SHA256 = re.compile(r'"?([0-9a-f]{64})"?')


class HubError(Exception):
    """The hub did not give the file. The text says why and what to do."""


def download(
    repo: str, file: str, target: Path, report: Callable[[float | None], None] | None = None
) -> None:
    """Fetch ``file`` of ``repo`` to ``target``. Blocks. Raises HubError.

    ``HF_ENDPOINT`` replaces the hub's address, ``HF_TOKEN`` opens gated repositories. What has arrived stays
    in ``target`` + ``.part``, so that the next attempt, also of another process, goes on from there.
    """
    endpoint = os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT).rstrip("/")
    url = f"{endpoint}/{repo}/resolve/main/{file}"
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with httpx.Client(timeout=_TIMEOUT, follow_redirects=True, headers=_authorization()) as client:
        expected_sha256 = _fetch_with_resume(client, url, part, report)
    _verify(part, expected_sha256)
    part.replace(target)


def _authorization() -> dict[str, str]:
    token = os.environ.get("HF_TOKEN")
    return {"authorization": f"Bearer {token}"} if token else {}


def _fetch_with_resume(
    client: httpx.Client, url: str, part: Path, report: Callable[[float | None], None] | None
) -> str | None:
    last: Exception | None = None
    for _ in range(_ATTEMPTS):
        had_bytes = _size(part)
        try:
            return _fetch(client, url, part, report)
        except httpx.TransportError as error:
            last = error
            if _size(part) == had_bytes and had_bytes == 0:
                break  # nothing arrives at all: not a line that breaks off
    raise HubError(
        f"{url} broke off or cannot be reached ({last}); try again to go on where it stopped"
    ) from last


def _fetch(
    client: httpx.Client, url: str, part: Path, report: Callable[[float | None], None] | None
) -> str | None:
    """One attempt. Returns the checksum that the hub states, if it does."""
    have_bytes = _size(part)
    # The bytes as they are stored: a compressed answer has no usable range.
    headers = {"accept-encoding": "identity"}
    if have_bytes:
        headers["range"] = f"bytes={have_bytes}-"
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:
            return _whole_or_again(response, part)
        _refuse(response, url)
        resumed = response.status_code == 206
        have_bytes = have_bytes if resumed else 0
        total_bytes = have_bytes + int(response.headers.get("content-length", 0))
        with part.open("ab" if resumed else "wb") as sink:
            for block in response.iter_raw():  # as it comes: what waits for a full block is lost when cut
                sink.write(block)
                have_bytes += len(block)
                if report is not None:
                    report(have_bytes / total_bytes if total_bytes else None)
        return _stated_sha256(response)


def _whole_or_again(response: httpx.Response, part: Path) -> str | None:
    """The range was refused: the part is whole already, or it belongs to another file and goes."""
    total = response.headers.get("content-range", "").rpartition("/")[2]
    if total != str(_size(part)):
        part.unlink(missing_ok=True)
        raise httpx.ReadError("what was there before did not fit")
    return _stated_sha256(response)


def _refuse(response: httpx.Response, url: str) -> None:
    code = response.status_code
    if code in (401, 403):
        raise HubError(
            f"{url} needs an account that may read it (HTTP {code}): set HF_TOKEN, accept the model's "
            "licence on its page, or take an open repository. Private and misspelt names answer the same"
        )
    if code == 404:
        raise HubError(f"{url} does not exist (HTTP 404): check the repository's and the file's name")
    if code not in (200, 206):
        raise HubError(f"{url} answered HTTP {code}; try again later, or another HF_ENDPOINT")


def _stated_sha256(response: httpx.Response) -> str | None:
    """Large files carry their sha256 as the linked entity tag, on the answer or on the redirect before it."""
    for one in (response, *response.history):
        match = _SHA256.fullmatch(one.headers.get("x-linked-etag", ""))
        if match:
            return match[1]
    return None


def _verify(part: Path, expected_sha256: str | None) -> None:
    with part.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest() if expected_sha256 else None
    if magic != b"GGUF" or digest != expected_sha256:
        part.unlink()
        raise HubError(
            f"{part.stem} is not the GGUF file that was asked for (checksum or first bytes differ); "
            "it was deleted"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
