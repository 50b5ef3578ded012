"""ModelScope, for machines in China: its file listing and its downloads, over plain HTTP.

The wire is that of the modelscope package, version 1.40. The package itself would bring a dozen others along.
"""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path

import httpx
from tqdm import tqdm

from gateway.store.files import WANTED, Digest, Listing, RemoteFile, StoreError

_CHUNK_BYTES = 2**20
_TRIES = 5


class ModelScope:
    """See Source. ``endpoint`` is ModelScope's address."""

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = (
            endpoint or os.environ.get("MODELSCOPE_ENDPOINT") or "https://modelscope.cn"
        ).rstrip("/")

    def listing(self, repository: str, revision: str | None) -> Listing:
        revision = revision or "master"
        parameters = {"Revision": revision, "Recursive": "true"}
        with self._client() as client:
            try:
                answer = client.get(f"/api/v1/models/{repository}/repo/files", params=parameters)
                answer.raise_for_status()
                listed = answer.json()["Data"]["Files"]
            except httpx.HTTPStatusError as error:
                raise self._refused(repository, error.response.status_code) from error
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                raise self._failed(repository, error) from error
        files = [
            RemoteFile(
                one["Path"], one["Size"], Digest("sha256", one["Sha256"]) if one.get("Sha256") else None
            )
            for one in listed
            if one.get("Type") != "tree" and any(fnmatch.fnmatch(one["Path"], wanted) for wanted in WANTED)
        ]
        return Listing("modelscope", repository, revision, tuple(files))

    def fetch(self, listing: Listing, folder: Path) -> None:
        with self._client() as client:
            for file in listing.files:
                target = folder / file.path
                if not (target.is_file() and target.stat().st_size == file.size_bytes):
                    self._file(client, listing, file, target)

    def _file(self, client: httpx.Client, listing: Listing, file: RemoteFile, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        failed: Exception | None = None
        for _ in range(_TRIES):
            try:
                self._rest(client, listing, file, part)
                part.replace(target)
            except httpx.HTTPStatusError as error:
                raise self._refused(listing.repository, error.response.status_code) from error
            except httpx.HTTPError as error:
                failed = error
            except OSError as error:
                raise self._failed(listing.repository, error) from error
            else:
                return
        raise self._failed(listing.repository, failed or ValueError("it stays incomplete"))

    def _rest(self, client: httpx.Client, listing: Listing, file: RemoteFile, part: Path) -> None:
        """What is not there yet of a file."""
        have = part.stat().st_size if part.exists() else 0
        if have > file.size_bytes:
            part.unlink()
            have = 0
        if have == file.size_bytes and part.exists():
            return
        parameters = {"Revision": listing.revision, "FilePath": file.path}
        headers = {"range": f"bytes={have}-"} if have else {}
        address = f"/api/v1/models/{listing.repository}/repo"
        with client.stream("GET", address, params=parameters, headers=headers) as answer:
            answer.raise_for_status()
            goes_on = answer.status_code == httpx.codes.PARTIAL_CONTENT
            bar = tqdm(
                total=file.size_bytes,
                initial=have if goes_on else 0,
                unit="B",
                unit_scale=True,
                desc=file.path,
            )
            with part.open("ab" if goes_on else "wb") as out, bar:
                for chunk in answer.iter_bytes(_CHUNK_BYTES):
                    out.write(chunk)
                    bar.update(len(chunk))
        if part.stat().st_size < file.size_bytes:
            raise httpx.ReadError("the answer ended early")

    def _client(self) -> httpx.Client:
        token = os.environ.get("MODELSCOPE_API_TOKEN")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self._endpoint, headers=headers, timeout=30, follow_redirects=True)

    def _refused(self, repository: str, status: int) -> StoreError:
        return StoreError(
            f"{self._endpoint} answers with {status} for {repository}. Check its name there, "
            "and `weights` in the registry; a private model needs MODELSCOPE_API_TOKEN."
        )

    def _failed(self, repository: str, error: Exception) -> StoreError:
        return StoreError(
            f"{repository} cannot be fetched from {self._endpoint}: {error}. "
            "What is there stays, and the same command goes on from there."
        )
