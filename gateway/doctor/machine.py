"""The machine itself: memory, disk, ports, the C library that llama.cpp needs, and Windows underneath."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx

from gateway.doctor.findings import Finding, Surroundings, failure, ok, warning

ENGINE_BYTES = 2_000_000_000
"""Main memory that gateway, supervisors and loading weights want, beside what else runs."""
WEIGHTS_BYTES = 7_000_000_000
"""One 4-bit model of 8 billion parameters, with room to write it."""
SPARE_BYTES = 500_000_000


def checks(around: Surroundings) -> Iterator[Finding]:
    yield memory(around)
    yield disk(around)
    yield port(around)
    if around.embedded:
        yield libgomp()
    yield from wsl(around)


def memory(around: Surroundings) -> Finding:
    try:
        lines = (around.proc / "meminfo").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
        free = sizes["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        return warning("memory", "How much memory is free cannot be read.", "Look with `free -h`.")
    if free < ENGINE_BYTES:
        hint = "End other programs. A container that is killed with exit code 137 ran out of memory."
        return warning("memory", f"{free / 1e9:.1f} GB of main memory are free.", hint)
    return ok("memory", f"{free / 1e9:.1f} GB of main memory are free")


def disk(around: Surroundings) -> Finding:
    folder = around.models
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    missing = _weights_to_come(around)
    if free < SPARE_BYTES:
        hint = "Free some: logs and downloads stop when it is full."
        return failure("disk", f"{free / 1e9:.1f} GB are free under {folder}.", hint)
    if free < missing:
        hint = "Free some, or put the models' folder on another disk."
        room = f"{free / 1e9:.1f} GB are free under {folder}"
        return warning("disk", f"{room}; the missing weights take up to {missing / 1e9:.0f} GB.", hint)
    return ok("disk", f"{free / 1e9:.1f} GB are free under {folder}")


def _weights_to_come(around: Surroundings) -> int:
    if around.registry is None or not around.uses_containers:
        return 0
    absent = [one for one in around.registry.models if not folder_of(around.models, one.id, one.name)]
    return len(absent) * WEIGHTS_BYTES


def folder_of(models: Path, *names: str | None) -> Path | None:
    """The folder of a model, by id or full name; None when there is none with anything in it."""
    for name in names:
        if name and (folder := models / name).is_dir() and any(folder.iterdir()):
            return folder
    return None


def port(around: Surroundings) -> Finding:
    host, number = around.settings.host, around.settings.port
    where = f"{host}:{number}"
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _is_gateway(host, number):
            return ok("port", f"{where} is held by a gateway that runs")
        reason = "another program has it" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        return failure("port", f"{where} cannot be used: {reason}.", "Choose another GATEWAY_PORT or HOST.")
    return ok("port", f"{where} is free")


def _is_gateway(host: str, number: int) -> bool:
    name = "127.0.0.1" if host in ("0.0.0.0", "") else "[::1]" if host == "::" else host  # noqa: S104
    with contextlib.suppress(httpx.HTTPError):
        return "status" in httpx.get(f"http://{name}:{number}/ready", timeout=2, trust_env=False).text
    return False


def libgomp() -> Finding:
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        hint = "Install it: apt-get install -y --no-install-recommends libgomp1"
        return failure("libgomp", "The embedded engine needs libgomp, which is not installed.", hint)
    return ok("libgomp", "libgomp is installed")


def wsl(around: Surroundings) -> Iterator[Finding]:
    try:
        version = (around.proc / "version").read_text()
    except OSError:
        return
    if "microsoft" not in version.lower():
        return
    if "WSL2" not in version and "microsoft-standard" not in version:
        hint = "Convert it: wsl --set-version DISTRIBUTION 2. WSL 1 has neither Docker nor the card."
        yield failure("wsl", "This is WSL 1.", hint)
        return
    here = around.models.resolve()
    if here.is_relative_to("/mnt"):
        hint = (
            "Keep the models under your Linux home: weights are read many times slower from a Windows drive."
        )
        yield warning("wsl", f"This is WSL 2, and {here} is on a Windows drive.", hint)
    else:
        yield ok("wsl", "this is WSL 2; the card's driver is the one of Windows")
