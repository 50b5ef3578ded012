"""Two gateways in front of scripted engines: with the fast path, and with the ordinary way alone."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastpath.scripted import Scripted, Step, whole
from harness import Running, free_port, model, start_gateway, until
from server_wire.conftest import start_ordinary
from server_wire.raw import Answer, comparable, connected, posted, read

from gateway.replicas import FULL_S

ID = "x-request-id: the-one"
BODY: dict[str, Any] = {"inputs": "one two three", "parameters": {"max_new_tokens": 3}}
NATIVE = {**BODY, "scenario": "raw"}
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("/generate", BODY),
    "stream": ("/generate_stream", BODY),
    "native": ("/v1/generate", NATIVE),
    "native stream": ("/v1/generate", {**NATIVE, "stream": True}),
}
HASTY = {"connect_s": 2, "first_token_s": 0.4, "between_tokens_s": 0.4, "total_s": 20, "wait_s": 5}
BRIEF = {**HASTY, "first_token_s": 20, "between_tokens_s": 20, "total_s": 0.5}
_UNLIKE = re.compile(
    r"_(sum|bucket)\b|quantile|process_|python_|gateway_open_connections|engine_restarts|loop_lag"
    r"|gateway_worker|places_lent"
)

Start = Callable[..., Running]


@dataclass
class Way:
    """One gateway and the engines that only it asks."""

    running: Running
    engine: Scripted
    second: Scripted
    closed: str
    """An address at which nobody listens."""
    admin: str = ""
    """A key, where one is needed."""
    full_until: float = 0.0
    """Until then, a replica that said that it is full comes last."""

    def _get(self, path: str) -> httpx.Response:
        return httpx.get(self.running.url + path, timeout=10, headers={"x-api-key": self.admin})

    def ask(self, form: str, name: str = "echo", *lines: str) -> list[Answer]:
        with closing(connected(self.running.url)) as client:
            client.sendall(self.request(form, name, *lines))
            return read(client, 1)

    @staticmethod
    def request(form: str, name: str = "echo", *lines: str) -> bytes:
        path, body = FORMS[form]
        if path == "/v1/generate":
            return posted(path, {**body, "model_id": name}, *lines)
        return posted(path, body, f"x-gateway-model: {name}", *lines)

    def figures(self) -> dict[str, float]:
        """All that is counted, but for times."""
        found = {}
        for line in self._get("/metrics").text.splitlines():
            name, _, value = line.rpartition(" ")
            of_tests = 'route="' in name and "generate" not in name  # what the test itself asks
            if line.startswith("gateway_") and not of_tests and not _UNLIKE.search(name):
                found[name] = float(value)
        return found

    def settled(self) -> bool:
        """Whether nothing is under way any more, and every engine is in that can be."""
        figures = self.figures()
        names = ("gateway_http_requests_open", "gateway_generations_open", "gateway_in_flight")
        open_now = [v for n, v in figures.items() if n.startswith(names)]
        rows = [r for m in self.models() for r in m.get("replicas") or ()]
        return sum(open_now) == 1 and not any(r.get("outstanding") for r in rows)

    def models(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._get("/v1/models").json()["data"]
        return found

    def lines(self, begin: int) -> list[str]:
        """The access lines since then, without what differs from one request to the next."""
        found = []
        for line in self.running.output[begin:].splitlines():
            if '"gateway.access"' in line and "generate" in line:
                fields = json.loads(line)
                found.append(json.dumps({**fields, "time": 0, "ms": 0}, sort_keys=True))
        return found

    def shown(self, text: str) -> str:
        """Without the addresses of its own engines."""
        ports = {self.engine.port: "ENGINE", self.second.port: "SECOND", int(self.closed[17:]): "CLOSED"}
        for port, name in ports.items():
            text = text.replace(f"127.0.0.1:{port}", name)
        # The ordinary way names what is left of a clock when the engine is called.
        return re.sub(r"within [0-9.]+ s", "within its time", text)

    def close(self) -> None:
        self.running.stop()
        self.engine.close()
        self.second.close()


def start_way(folder: Path, start: Start = start_gateway, **settings: Any) -> Way:
    engine, second = Scripted(), Scripted()
    closed = f"http://127.0.0.1:{free_port()}"
    routing = {"max_retries": 2, "eject_after": 1000}
    limits = {"max_concurrent": 64, "max_queue": 8}
    patient = {"connect_s": 5, "first_token_s": 20, "between_tokens_s": 20, "total_s": 60}
    probes = {"interval_s": 0.5, "fails": 1000, "timeout_s": 5}
    many = {"routing": routing, "limits": limits, "timeouts": patient, "probes": probes}
    models = [
        model(engine.url, **many),
        model(engine.url, id="hasty", **{**many, "timeouts": HASTY}),
        model(engine.url, id="brief", **{**many, "timeouts": BRIEF}),
        model(engine.url, id="two", replicas=[second.url], **many),
    ]
    folder.mkdir(exist_ok=True)
    settings = {"log_format": "json", "log_level": "info", **settings}
    return Way(start(folder, {"models": models}, **settings), engine, second, closed)


@dataclass
class Ways:
    """The same twice."""

    fast: Way
    ordinary: Way

    def check(
        self, form: str, *scripts: list[Step], name: str = "echo", second: list[Step] | None = None
    ) -> Answer:
        """Ask both for the same, of engines that do the same. All that can be seen of it is the same."""
        seen = [self._asked(way, form, scripts, name, second) for way in (self.fast, self.ordinary)]
        fast, ordinary = (one for _, one in seen)
        assert [
            (name, fast.get(name), ordinary.get(name))
            for name in {**fast, **ordinary}
            if fast.get(name) != ordinary.get(name)
        ] == []
        return seen[0][0]

    def _asked(
        self, way: Way, form: str, scripts: tuple[list[Step], ...], name: str, second: list[Step] | None
    ) -> tuple[Answer, dict[str, Any]]:
        ready(way)
        time.sleep(max(0.0, way.full_until - time.monotonic()))  # else how fast a test runs would decide
        way.engine.play([whole()])
        way.second.play([whole()])
        before, begin = way.figures(), len(way.running.output)
        way.engine.play(*scripts)
        way.second.play(second or scripts[0])
        answers = way.ask(form, name, ID)
        played = (*scripts[0], *(second or ()))
        if name == "two" and any(isinstance(step, bytes) and b" 429 " in step for step in played):
            way.full_until = time.monotonic() + FULL_S
        until(way.settled, "nothing to be under way")
        until(lambda: way.lines(begin), "its line in the log")
        after = way.figures()
        counted = {n: after[n] - before.get(n, 0) for n in after if after[n] != before.get(n, 0)}
        assert "Traceback" not in way.running.output[begin:], way.running.output[begin:]
        said = [json.loads(way.shown(json.dumps(comparable(one), default=repr))) for one in answers]
        return answers[0], {
            **{
                f"answers.{key}": [_lengthless(one)[key] for one in said]
                for key in ("status", "reason", "headers", "body")
            },
            **counted,
            "log": way.lines(begin),
            # As often as there are kept connections, if all of them are closed as they are taken.
            "asked": (way.engine.asked > 0, way.second.asked > 0),
        }


def _lengthless(said: dict[str, Any]) -> dict[str, Any]:
    """The address of an engine may have more digits than that of another."""
    return {**said, "headers": [pair for pair in said["headers"] if pair[0] != "content-length"]}


def ready(way: Way) -> None:
    """Until every model of it is in, and every replica takes requests."""

    def all_in() -> bool:
        models = way.models()
        rows = [row for one in models for row in one.get("replicas") or ()]
        return all(m["state"] == "ready" for m in models) and all(r["state"] == "ready" for r in rows)

    until(all_in, "the engines to be in")


@pytest.fixture(scope="package")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    folder = tmp_path_factory.mktemp("ways")
    found = Ways(start_way(folder / "fast"), start_way(folder / "ordinary", start_ordinary))
    yield found
    for way in (found.fast, found.ordinary):
        way.close()
