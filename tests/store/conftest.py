"""A hub and a ModelScope in small: the parts of both that downloads use."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

COMMIT = "c0ffee" * 6 + "beef"
FILES = {
    "config.json": b'{"model_type": "qwen2"}\n',
    "tokenizer.json": b'{"version": "1.0"}\n' * 100,
    # The hub's library writes in pieces of 10 MB: what it goes on with is whole pieces.
    "model.safetensors": bytes(range(256)) * 100_000,
    "pytorch_model.bin": b"another format of the same weights",
}


class Shelf(http.server.ThreadingHTTPServer):
    """``cuts``: so many answers break off half way. ``lies``: files that come with other content."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.cuts = 0
        self.lies: set[str] = set()
        self.gated = False
        self.token: str | None = None
        self.asked: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self, name: str) -> list[str | None]:
        """The ranges with which a file was asked for."""
        return [span for method, path, span in self.asked if method == "GET" and path.endswith(name)]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Shelf
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        named = query.get("FilePath") or parts.path
        self.server.asked.append((self.command, named, self.headers.get("range")))
        if self.server.gated and not self.headers.get("authorization"):
            self._send(401, b"{}", {"x-error-code": "GatedRepo", "x-error-message": "gated"})
        elif parts.path == f"/api/models/org/repo/tree/{COMMIT}":
            self._json(_hub_tree())
        elif parts.path.startswith("/api/models/org/repo"):
            self._json(_hub_listing())
        elif parts.path == "/api/v1/models/org/repo/repo/files":
            self._json(_modelscope_listing())
        elif parts.path == "/api/v1/models/org/repo/repo" and query["FilePath"] in FILES:
            self._file(query["FilePath"])
        elif parts.path.startswith(f"/org/repo/resolve/{COMMIT}/") and named.rpartition("/")[2] in FILES:
            self._file(named.rpartition("/")[2])
        else:
            self._send(404, b"{}", {"x-error-code": "RepoNotFound"})

    def _file(self, name: str) -> None:
        content = FILES[name]
        headers = {
            "x-repo-commit": COMMIT,
            "etag": f'"{digest(name)}"',
            "x-linked-size": str(len(content)),
            "accept-ranges": "bytes",
        }
        if name in self.server.lies:
            content = content[:-1] + b"!"
        start = int((self.headers.get("range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        status = 206 if start else 200
        if start:
            headers["content-range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        cut = self.command == "GET" and self.server.cuts > 0 and len(body) > 100_000
        if cut:
            self.server.cuts -= 1
        self._send(status, body, headers, cut=cut)

    def _json(self, body: object) -> None:
        self._send(200, json.dumps(body).encode(), {"content-type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        pass


def digest(name: str) -> str:
    """SHA-256 of what is large, git's digest of what is small, as on the hub."""
    content = FILES[name]
    if len(content) > 100_000:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _hub_listing() -> dict[str, Any]:
    siblings = []
    for name, content in FILES.items():
        one: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": digest(name)}
        if len(content) > 100_000:
            one["lfs"] = {"size": len(content), "sha256": digest(name), "pointerSize": 134}
        siblings.append(one)
    return {
        "id": "org/repo",
        "modelId": "org/repo",
        "sha": COMMIT,
        "private": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": siblings,
    }


def _hub_tree() -> list[dict[str, Any]]:
    tree = []
    for name, content in FILES.items():
        one: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": digest(name)}
        if len(content) > 100_000:
            one["lfs"] = {"oid": digest(name), "size": len(content), "pointerSize": 134}
        tree.append(one)
    return tree


def _modelscope_listing() -> dict[str, Any]:
    files = [
        {"Path": name, "Size": len(content), "Type": "blob", "Sha256": hashlib.sha256(content).hexdigest()}
        for name, content in FILES.items()
    ]
    return {"Code": 200, "Data": {"Files": [*files, {"Path": "figures", "Size": 0, "Type": "tree"}]}}


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    server = Shelf()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
