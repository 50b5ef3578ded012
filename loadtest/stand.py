"""What is under test: a gateway with its engines, started here, or one at an address that was given."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from loadtest.pages import Page, added, final_pages
from loadtest.problems import Problem
from loadtest.speeds import CALIBRATED, calibrated

REPOSITORY = Path(__file__).resolve().parents[1]
CARD = "12282MiB"
"""The memory of an RTX 4070 Super: room for one of the two models."""
_START_S, _READY_S, _STOP_S, _IDLE_S = 60.0, 240.0, 90.0, 60.0
_ANSWER_S = 10.0
_REQUEST = re.compile(r"\bload-[0-9a-f]{16}\b")


@dataclass(frozen=True, slots=True)
class Setup:
    """What to start. ``tree`` is that of another commit in a comparison; engines are always of this one.

    ``limits`` take the place of a model's own. ``only``: the models that there are.
    """

    engine: str = "calibrated"
    url: str = ""
    port: int = 0
    speed_scale: float = 1.0
    load: bool = True
    only: tuple[str, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    tree: Path = REPOSITORY


@dataclass(slots=True)
class Stand:
    """A gateway that answers. ``process`` is None where somebody else runs it."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)
    baseline: Page = field(default_factory=Page)

    def get(self, path: str) -> bytes:
        """The body of an answer. Raises Problem."""
        request = urllib.request.Request(self.url + path, headers=dict(self.headers))  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:  # noqa: S310
                body: bytes = answer.read()
                return body
        except urllib.error.HTTPError as error:
            hint = " Put a key into GATEWAY_API_KEY." if error.code in (401, 403) else ""
            raise Problem(f"{self.url}{path} answers with {error.code}.{hint}") from error
        except OSError as error:
            raise Problem(f"Nothing answers at {self.url}{path}: {error}") from error

    def page(self) -> Page:
        return Page.parse(self.get("/metrics").decode())

    def look(self) -> list[dict[str, Any]]:
        """The rows of ``GET /v1/models`` that are models."""
        rows = json.loads(self.get("/v1/models"))["data"]
        return [row for row in rows if "state" in row]

    def post(self, path: str) -> None:
        request = urllib.request.Request(  # noqa: S310
            self.url + path, data=b"", headers=dict(self.headers), method="POST"
        )
        with urllib.request.urlopen(request, timeout=_ANSWER_S):  # noqa: S310
            pass

    def await_state(self, model: str, state: str, within_s: float = _READY_S) -> None:
        """Wait until a model is in a state. Raises Problem with the reason that the gateway gives."""
        deadline = time.monotonic() + within_s
        row: dict[str, Any] = {}
        while time.monotonic() < deadline:
            row = next((row for row in self.look() if row["id"] == model), {})
            if row.get("state") == state:
                return
            if row.get("state") == "failed":
                break
            time.sleep(0.2)
        why = row.get("reason", f"it is {row.get('state', 'not there')}")
        raise Problem(f"{model} is not {state} after {within_s:.0f} s: {why}. Logs are in {self.folder}.")

    def bring_in(self, model: str) -> None:
        """Load a model, and wait for it."""
        row = next((row for row in self.look() if row["id"] == model), {})
        if row.get("state") != "ready" and row.get("memory_bytes") is not None:
            self.post(f"/v1/models/{model}/load")
        self.await_state(model, "ready")

    def await_idle(self) -> None:
        """Wait until no generation is under way, so that counts stand still. Raises Problem."""
        deadline = time.monotonic() + _IDLE_S
        while time.monotonic() < deadline:
            if self.page().sum("gateway_generations_open") == 0:
                return
            time.sleep(0.1)
        raise Problem(f"{self.url} still has open generations {_IDLE_S:.0f} s after the last client left.")

    def engine_counts(self) -> dict[str, Page] | None:
        """What each model's engines counted in all their lives; None where they are not ours to ask.

        Complete once the stand is closed.
        """
        if self.process is None:
            return None
        found: dict[str, Page] = {}
        for row in self.models:
            path = _counts_file(self.folder, row["id"])
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            found[row["id"]] = added(final_pages(text))
        return found

    def logged(self) -> dict[str, int] | None:
        """How often each request of a load test stands in the access log, by its id."""
        if self.process is None:
            return None
        text = (self.folder / "gateway.log").read_text(encoding="utf-8", errors="replace")
        lines = (line for line in text.splitlines() if "gateway.access" in line)
        return dict(Counter(found[0] for line in lines if (found := _REQUEST.search(line)) is not None))


def _counts_file(folder: Path, model: str) -> Path:
    return folder / f"engine-{model}.metrics"


def registry_of(setup: Setup, folder: Path) -> dict[str, Any]:
    """The registry that a stand runs with: a shipped one, with engines that keep their counts."""
    name = "models.yaml" if setup.engine == "calibrated" else "local.yaml"
    registry: dict[str, Any] = yaml.safe_load((REPOSITORY / "models" / name).read_text(encoding="utf-8"))
    kept = [row for row in registry["models"] if not setup.only or row["id"] in setup.only]
    if not kept:
        raise Problem(f"models/{name} has none of these models: {', '.join(setup.only)}.")
    for row in kept:
        if setup.engine == "calibrated":
            _stand_in(row, setup)
        if setup.tree != REPOSITORY:
            at = row["command"].index("-m")
            row["command"][at : at + 2] = [str(REPOSITORY / "loadtest" / "engine_here.py")]
        row["command"] += ["--final-metrics", str(_counts_file(folder, row["id"]))]
        row["limits"] = {**row.get("limits", {}), **setup.limits}
        row["preload"] = row is kept[0]
    registry |= {"models": kept, "default_model": kept[0]["id"]}
    registry["aliases"] = {
        alias: to for alias, to in registry.get("aliases", {}).items() if to in {row["id"] for row in kept}
    }
    if setup.engine == "calibrated":
        registry["devices"] = [{"id": "card", "memory": CARD, "reader": "none"}]
    return registry


def _stand_in(row: dict[str, Any], setup: Setup) -> None:
    """An echo engine in place of a container; limits and timeouts stay."""
    model = row["id"]
    for key in ("url", "supervisor", "weights"):
        row.pop(key, None)
    row["command"] = ["{python}", "-m", "gateway.engine", "--backend", "echo", "--port", "{port}"]
    row["command"] += ["--model-id", CALIBRATED[model]]
    row["command"] += calibrated(model, setup.speed_scale, load=setup.load)


@contextmanager
def open_stand(setup: Setup, folder: Path) -> Iterator[Stand]:
    """Start what is asked for, and end it with the block. Raises Problem."""
    folder = folder.resolve()  # the gateway may run in another one
    folder.mkdir(parents=True, exist_ok=True)
    key = os.environ.get("GATEWAY_API_KEY", "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if setup.url:
        stand = Stand(setup.url.rstrip("/"), folder, headers=headers)
        stand.models, stand.baseline = stand.look(), stand.page()
        yield stand
        return
    registry = folder / "models.yaml"
    registry.write_text(yaml.safe_dump(registry_of(setup, folder), allow_unicode=True), encoding="utf-8")
    if setup.engine == "small":
        _prepare(registry)
    port = setup.port or _free_port()
    _must_be_free(port)
    process = _start(registry, port, setup, folder)
    try:
        stand = Stand(f"http://127.0.0.1:{port}", folder, process, headers)
        _await_answer(stand)
        stand.models = stand.look()
        stand.await_state(stand.models[0]["id"], "ready")
        stand.baseline = stand.page()
        yield stand
    finally:
        _stop(process)


def _start(registry: Path, port: int, setup: Setup, folder: Path) -> subprocess.Popen[bytes]:
    ours = {"GATEWAY_CONFIG": str(registry), "GATEWAY_PORT": str(port), "GATEWAY_HOST": "127.0.0.1"}
    env = {**os.environ, **ours, "GATEWAY_RUN_DIR": str(folder / "run"), **setup.settings}
    with (folder / "gateway.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve"],
            cwd=setup.tree,
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _prepare(registry: Path) -> None:
    env = {**os.environ, "GATEWAY_CONFIG": str(registry)}
    done = subprocess.run([sys.executable, "-m", "gateway", "prepare"], cwd=REPOSITORY, env=env, check=False)
    if done.returncode:
        raise Problem("The small models' weights could not be had; the lines above say why.")


def _await_answer(stand: Stand) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if stand.process is not None and stand.process.poll() is not None:
            text = (stand.folder / "gateway.log").read_text(encoding="utf-8", errors="replace")
            raise Problem(f"The gateway ended at once:\n{text[-1500:]}")
        with contextlib.suppress(Problem):
            stand.get("/health")
            return
        time.sleep(0.1)
    raise Problem(f"The gateway does not answer at {stand.url} after {_START_S:.0f} s.")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _must_be_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Problem(f"Port {port} is taken ({error.strerror}). Choose another with --port.") from error
