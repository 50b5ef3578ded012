"""The card and the containers: driver, its library, Docker, compose, and the toolkit that joins them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any

from gateway.doctor.findings import Finding, Surroundings, failure, first_line, ok, warning

OLDEST_COMPOSE = (2, 20)
"""The first with everything that our files use (`include`, `required: false`, long health checks)."""
DRIVER_HINT = "Install NVIDIA's driver (on WSL 2: on Windows, not inside Linux), and restart."
TOOLKIT_HINT = (
    "Install nvidia-container-toolkit, then: nvidia-ctk runtime configure --runtime=docker, "
    "and restart Docker."
)


def checks(around: Surroundings) -> Iterator[Finding]:
    if around.uses_card:
        yield driver(around)
        yield nvml()
    if around.uses_containers:
        yield docker(around)
        yield compose(around)
        if around.uses_card:
            yield toolkit(around)


def driver(around: Surroundings) -> Finding:
    said = around.run("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    if said is None:
        return failure("driver", "nvidia-smi is not installed, so there is no NVIDIA driver.", DRIVER_HINT)
    if said.status != 0:
        return failure("driver", f"nvidia-smi fails: {first_line(said.text)}.", DRIVER_HINT)
    return ok("driver", "; ".join(said.text.splitlines()))


def nvml() -> Finding:
    try:
        library: Any = importlib.import_module("pynvml")
    except ImportError:
        hint = "Install it: pip install nvidia-ml-py. Until then declared figures are trusted."
        return warning("nvml", "nvidia-ml-py is not installed, so memory cannot be measured.", hint)
    try:
        library.nvmlInit()
        count = library.nvmlDeviceGetCount()
        library.nvmlShutdown()
    except library.NVMLError as error:
        hint = "In a container: give it the card. On the host: see the driver."
        return failure("nvml", f"The driver's library does not answer: {error}.", hint)
    return ok("nvml", f"the driver's library lists {count} cards")


def docker(around: Surroundings) -> Finding:
    said = around.run("docker", "version", "--format", "{{.Server.Version}}")
    if said is None:
        return failure("docker", "Docker is not installed.", "Install Docker Engine, or Docker Desktop.")
    if said.status == 0:
        return ok("docker", f"Docker Engine {first_line(said.text)}")
    if "permission denied" in said.text.lower():
        hint = "Add yourself to the group docker, and log in again: sudo usermod -aG docker $USER"
        return failure("docker", "Docker runs, and you may not use it.", hint)
    hint = "Start it: sudo systemctl start docker. With Docker Desktop: start that, with WSL integration on."
    return failure("docker", f"Docker does not answer: {first_line(said.text)}.", hint)


def compose(around: Surroundings) -> Finding:
    said = around.run("docker", "compose", "version", "--short")
    if said is None or said.status != 0:
        said = around.run("docker-compose", "version", "--short")
    hint = "Install Docker's compose plug-in (docker-compose-plugin)."
    if said is None or said.status != 0:
        return failure("compose", "There is no docker compose.", hint)
    version = re.search(r"(\d+)\.(\d+)", said.text)
    if version is None or (int(version[1]), int(version[2])) < OLDEST_COMPOSE:
        needed = ".".join(map(str, OLDEST_COMPOSE))
        return failure("compose", f"Compose is {first_line(said.text)}; {needed} is needed.", hint)
    return ok("compose", f"compose {first_line(said.text)}")


def toolkit(around: Surroundings) -> Finding:
    if around.find("nvidia-ctk") is None and around.find("nvidia-container-runtime-hook") is None:
        return failure("toolkit", "NVIDIA's container toolkit is not installed.", TOOLKIT_HINT)
    said = around.run("docker", "info", "--format", "{{json .Runtimes}} {{json .CDISpecDirs}}")
    if said is None or said.status != 0:
        return warning("toolkit", "Whether Docker knows the toolkit cannot be seen.", "See docker above.")
    if "nvidia" not in said.text and around.find("nvidia-container-runtime-hook") is None:
        return failure("toolkit", "The toolkit is installed, and Docker does not know it.", TOOLKIT_HINT)
    return ok("toolkit", "NVIDIA's container toolkit is installed")
