"""``python -m gateway models``: pull, list, verify and rm."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.config import ModelSpec, Registry
from gateway.store import files
from gateway.store.files import Listing, Source, StoreError

SPARE_BYTES = 1_000_000_000
"""Left free on the disk: whoever fills it to the brim stops other programs."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help="the registry file; GATEWAY_CONFIG if not given")
    parser.add_argument("--models-dir", type=Path, default=Path("models"), help="where their folders are")
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    pull = actions.add_parser("pull", help="fetch weights, or what is missing of them, and check them")
    pull.add_argument("names", nargs="+", metavar="MODEL")
    pull.add_argument("--from", dest="source", choices=("hub", "modelscope"), default="hub")
    actions.add_parser("list", help="what is there, and how large it is")
    for action, said in (("verify", "read everything again and compare checksums"), ("rm", "delete weights")):
        one = actions.add_parser(action, help=said)
        one.add_argument("names", nargs="+", metavar="MODEL")
        if action == "rm":
            one.add_argument("--yes", action="store_true", help="do not ask")


def run(options: argparse.Namespace, registry: Registry) -> int:
    """Do it and say what was done; returns the exit status."""
    try:
        if options.action == "list":
            return _list(registry, options.models_dir)
        specs = [_spec(registry, name) for name in options.names]
        folders = [(spec, folder_for(options.models_dir, spec)) for spec in specs]
        return _act(options, folders)
    except StoreError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except OSError as error:
        print(f"{error.filename or 'The disk'}: {error.strerror}.", file=sys.stderr)  # noqa: T201
        return 1


def _act(options: argparse.Namespace, folders: Sequence[tuple[ModelSpec, Path]]) -> int:
    if options.action == "pull":
        for spec, folder in folders:
            pull(spec, folder, options.source, source_for(options.source))
        return 0
    if options.action == "verify":
        return max(_verify(spec, folder) for spec, folder in folders)
    return max(_remove(spec, folder, sure=options.yes) for spec, folder in folders)


def _spec(registry: Registry, name: str) -> ModelSpec:
    wanted = registry.resolve(name)
    for spec in registry.models:
        if spec.id == wanted:
            return spec
    known = ", ".join(model.id for model in registry.models)
    raise StoreError(f"There is no model `{name}` in the registry. There are: {known}.")


def folder_for(models: Path, spec: ModelSpec) -> Path:
    """A model's folder: by its id; by its full name where that is there already."""
    by_name = models / spec.title
    return by_name if by_name.is_dir() and not (models / spec.id).is_dir() else models / spec.id


def source_for(name: str) -> Source:
    """Raises StoreError when what it needs is not installed."""
    try:
        if name == "modelscope":
            # Optional parts, here and below.
            from gateway.store.modelscope import ModelScope

            return ModelScope()
        from gateway.store.hub import Hub

        return Hub()
    except ImportError as error:
        raise StoreError(
            f'{error.name} is not installed: pip install "unified-llm-gateway[weights]"'
        ) from error


# ---------------------------------------------------------------- pull


def pull(spec: ModelSpec, folder: Path, name: str, source: Source) -> None:
    """Fetch what is missing and check all of it. What turns out damaged is fetched once more."""
    repository, revision = _wanted(spec, name)
    listing = source.listing(repository, revision)
    if not any(file.path.endswith(".safetensors") for file in listing.files):
        raise StoreError(f"{repository} has no .safetensors files, and engines here read nothing else.")
    folder.mkdir(parents=True, exist_ok=True)
    _check_room(folder, listing)
    _say(f"{spec.id}: {repository} at {listing.revision[:12]}, {_size(listing.size_bytes)}, into {folder}")
    source.fetch(listing, folder)
    files.save(folder, listing)
    bad = list(files.damages(folder, listing, told=lambda _: None))
    if bad:
        _say(f"{spec.id}: {'; '.join(bad)}. Fetching that again.")
        for one in bad:
            _forget(folder, one.partition(":")[0])
        source.fetch(listing, folder)
        bad = list(files.damages(folder, listing, told=lambda _: None))
    if bad:
        for one in bad:
            _forget(folder, one.partition(":")[0])
        lines = "\n  ".join(bad)
        raise StoreError(
            f"{spec.id} came damaged, twice:\n  {lines}\n"
            "The bad files are deleted. Try another time, or from another source."
        )
    _say(f"{spec.id}: complete, checksums right")


def _wanted(spec: ModelSpec, source: str) -> tuple[str, str | None]:
    repository = None
    if spec.weights is not None:
        repository = spec.weights.modelscope if source == "modelscope" else spec.weights.hub
    if spec.weights is None or repository is None:
        raise StoreError(
            f"The registry does not say where {spec.id} comes from: "
            f"give it `weights: {{{source}: OWNER/NAME}}`."
        )
    return repository, spec.weights.revision if source == "hub" else None


def _check_room(folder: Path, listing: Listing) -> None:
    needed, free = files.missing_bytes(folder, listing), shutil.disk_usage(folder).free
    if needed and needed + SPARE_BYTES > free:
        raise StoreError(
            f"{listing.repository} needs {_size(needed)} more in {folder}, and {_size(free)} are free "
            f"({_size(SPARE_BYTES)} stay free). Make room, or choose another --models-dir."
        )


def _forget(folder: Path, path: str) -> None:
    """A file that is wrong, and the note of the hub's library that says it is right."""
    (folder / path).unlink(missing_ok=True)
    (folder / ".cache/huggingface/download" / f"{path}.metadata").unlink(missing_ok=True)


# ---------------------------------------------------------------- list, verify, rm


def _list(registry: Registry, models: Path) -> int:
    known = {folder_for(models, spec): spec for spec in registry.models}
    for folder, spec in known.items():
        print(f"{spec.id:20} {_state(folder)}")  # noqa: T201
    others = [path for path in _folders(models) if path not in known]
    for folder in others:
        print(f"{folder.name:20} {_state(folder)}; not in the registry")  # noqa: T201
    return 0


def _folders(models: Path) -> list[Path]:
    return sorted(path for path in models.iterdir() if path.is_dir()) if models.is_dir() else []


def _state(folder: Path) -> str:
    if not folder.is_dir():
        return "no weights"
    size = _size(files.size_of(folder))
    listing = files.expected(folder)
    if listing is None:
        return f"{size} in {folder}, of unknown origin"
    missing = [file.path for file in listing.files if not (folder / file.path).is_file()]
    origin = f"{listing.source}:{listing.repository}" if listing.repository else "hub"
    state = f"incomplete, {len(missing)} files are missing" if missing else "complete"
    return f"{size} in {folder}, {origin} at {listing.revision[:12]}, {state}"


def _verify(spec: ModelSpec, folder: Path) -> int:
    listing = files.expected(folder) if folder.is_dir() else None
    if listing is None:
        raise StoreError(f"There is nothing to compare {folder} with. `models pull {spec.id}` fetches it.")
    told: Callable[[str], None] = lambda path: _say(f"{spec.id}: {path}")  # noqa: E731
    bad = list(files.damages(folder, listing, told=told))
    if bad:
        lines = "\n  ".join(bad)
        _say(f"{spec.id} is damaged:\n  {lines}\n`models pull {spec.id}` mends it.")
        return 1
    _say(f"{spec.id}: {len(listing.files)} files, all right")
    return 0


def _remove(spec: ModelSpec, folder: Path, *, sure: bool) -> int:
    if not folder.is_dir():
        raise StoreError(f"There is no {folder}.")
    if folder.is_symlink():
        raise StoreError(f"{folder} is a link. Delete what it leads to yourself, if nobody else uses it.")
    if not sure and not _agrees(f"Delete {folder} ({_size(files.size_of(folder))})? [y/N] "):
        _say("Nothing was deleted.")
        return 1
    shutil.rmtree(folder)
    _say(f"{folder} is deleted.")
    return 0


def _agrees(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10**8 else f"{count / 1e6:.2f} MB"


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
