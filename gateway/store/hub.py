"""The Hugging Face hub, through its own library: resume, progress bars, tokens, HF_ENDPOINT for mirrors."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from gateway.store.files import WANTED, Digest, Listing, RemoteFile, StoreError


class Hub:
    """See Source. ``endpoint`` is the hub's address or a mirror's."""

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"

    def listing(self, repository: str, revision: str | None) -> Listing:
        with self._explained(repository):
            info = HfApi(endpoint=self._endpoint).model_info(
                repository, revision=revision, files_metadata=True, timeout=30
            )
        files = [
            RemoteFile(
                one.rfilename,
                one.size or 0,
                Digest("sha256", one.lfs.sha256)
                if one.lfs
                else Digest("git", one.blob_id)
                if one.blob_id
                else None,
            )
            for one in info.siblings or ()
            if any(fnmatch.fnmatch(one.rfilename, pattern) for pattern in WANTED)
        ]
        return Listing("hub", repository, info.sha or revision or "main", tuple(files))

    def fetch(self, listing: Listing, folder: Path) -> None:
        with self._explained(listing.repository):
            snapshot_download(
                listing.repository,
                revision=listing.revision,
                local_dir=folder,
                allow_patterns=[file.path for file in listing.files],
                endpoint=self._endpoint,
                max_workers=4,
            )

    @contextmanager
    def _explained(self, repository: str) -> Iterator[None]:
        try:
            yield
        except GatedRepoError as error:
            raise StoreError(
                f"{repository} is gated. Accept its licence at {self._endpoint}/{repository}, make a token "
                "there, and export HF_TOKEN=… before you try again."
            ) from error
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise StoreError(
                f"{self._endpoint} knows no {repository} in that revision, or HF_TOKEN may not see it. "
                "Check its name, and `weights` in the registry."
            ) from error
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else "nothing"
            if status in (401, 403):
                raise StoreError(
                    f"{self._endpoint} does not let us read {repository} ({status}). "
                    "Export HF_TOKEN=… with a token whose owner has accepted the licence."
                ) from error
            raise StoreError(
                f"{self._endpoint} answers with {status} for {repository}. Try later."
            ) from error
        except OSError as error:
            raise StoreError(self._unreachable(repository, error)) from error
        except Exception as error:
            # The library lets its HTTP client's own errors through, whichever that client is.
            if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore", "httpx2", "requests"):
                raise
            raise StoreError(self._unreachable(repository, error)) from error

    def _unreachable(self, repository: str, error: Exception) -> str:
        return (
            f"{repository} cannot be fetched from {self._endpoint}: {error}. "
            "What is there stays, and the same command goes on from there. "
            "Elsewhere: set HF_ENDPOINT to a mirror, or use --from modelscope."
        )
