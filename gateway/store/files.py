"""What belongs into a model's folder: file by file, with size and digest, and whether it is so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

MANIFEST = ".weights.json"
_CHUNK_BYTES = 4 * 2**20
_HUB_METADATA = Path(".cache/huggingface/download")

WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "USE_POLICY*")
"""What an engine reads. Other formats of the same weights would only fill the disk."""


class StoreError(Exception):
    """Weights cannot be had, or are not what they should be. The text says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Digest:
    """``git``: of a small file, SHA-1 over git's header and the content."""

    kind: Literal["sha256", "git"]
    value: str


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file as its repository describes it."""

    path: str
    size_bytes: int
    digest: Digest | None


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository at one revision. ``revision`` is the commit where the source has such a thing."""

    source: str
    repository: str
    revision: str
    files: tuple[RemoteFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


class Source(Protocol):
    """Where weights come from. Both methods block, and raise StoreError."""

    def listing(self, repository: str, revision: str | None) -> Listing: ...

    def fetch(self, listing: Listing, folder: Path) -> None:
        """Bring all files into ``folder``, going on where an earlier try stopped, with progress bars."""
        ...


def save(folder: Path, listing: Listing) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_text(json.dumps(asdict(listing), indent=1) + "\n", encoding="utf-8")


def expected(folder: Path) -> Listing | None:
    """What should be in a folder: our own record, or that of the hub's own tools; None without either."""
    try:
        kept = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = [
            RemoteFile(one["path"], one["size_bytes"], Digest(**one["digest"]) if one["digest"] else None)
            for one in kept["files"]
        ]
        return Listing(kept["source"], kept["repository"], kept["revision"], tuple(files))
    except FileNotFoundError:
        return _of_hub_tools(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{folder / MANIFEST} cannot be read ({error}). Delete it and fetch the model again."
        ) from error


def _of_hub_tools(folder: Path) -> Listing | None:
    """`hf download --local-dir` leaves a note beside each file: commit, digest, time."""
    notes = folder / _HUB_METADATA
    files, revision = [], ""
    for note in sorted(notes.rglob("*.metadata")):
        lines = note.read_text(encoding="utf-8").splitlines()
        if len(lines) < 2:
            continue
        revision = lines[0]
        path = str(note.relative_to(notes)).removesuffix(".metadata")
        here = folder / path
        size = here.stat().st_size if here.exists() else 0
        files.append(RemoteFile(path, size, Digest("sha256" if len(lines[1]) == 64 else "git", lines[1])))
    return Listing("hub", "", revision, tuple(files)) if files else None


def damages(folder: Path, listing: Listing, *, told: Callable[[str], None]) -> Iterator[str]:
    """What is wrong with each file that is, in words. Blocks: everything is read. ``told`` of each file."""
    for file in listing.files:
        told(file.path)
        if (fault := _fault(folder / file.path, file)) is not None:
            yield f"{file.path}: {fault}"


def _fault(path: Path, file: RemoteFile) -> str | None:
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != file.size_bytes:
        return f"has {size:,} bytes instead of {file.size_bytes:,}"
    if file.digest is not None and _digest(path, file.digest.kind) != file.digest.value:
        return "has other content than it should (wrong checksum)"
    return None


def _digest(path: Path, kind: str) -> str:
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(usedforsecurity=False)
    if kind == "git":
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def missing_bytes(folder: Path, listing: Listing) -> int:
    """How much has still to come."""
    sizes: Mapping[str, int] = {
        file.path: (folder / file.path).stat().st_size
        for file in listing.files
        if (folder / file.path).is_file()
    }
    return sum(max(0, file.size_bytes - sizes.get(file.path, 0)) for file in listing.files)
