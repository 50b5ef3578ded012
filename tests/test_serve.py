"""The gateway as a process: its start, its door, its end, and what it says when it cannot."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi.routing import APIRoute
from harness import (
    REPOSITORY,
    Running,
    echo_command,
    free_port,
    launch,
    model,
    owned,
    start_echo,
    start_gateway,
    until,
)
from pydantic import SecretStr

from gateway.auth import PUBLIC_PATHS
from gateway.cli import _hints, load_registry
from gateway.main import create_app
from gateway.settings import Settings


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **{f"GATEWAY_{name.upper()}": value for name, value in settings.items()}}
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def write_registry(folder: Path, *models: dict[str, Any]) -> Path:
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": list(models)}), encoding="utf-8")
    return path


def test_gateway_starts_not_ready_while_its_engine_is_away_and_answers_once_it_is_there(
    tmp_path: Path,
) -> None:
    port = free_port()
    running = start_gateway(tmp_path, {"models": [model(f"http://127.0.0.1:{port}")]})
    engine: Running | None = None
    try:
        assert running.get("/health").status_code == 200
        not_ready = running.get("/ready")
        refused = httpx.post(running.url + "/v1/generate", json={"inputs": "hello"}, timeout=20)

        engine = launch(
            echo_command(port, model_id="late"), f"http://127.0.0.1:{port}", tmp_path / "late.log"
        )
        answered = httpx.post(running.url + "/v1/generate", json={"inputs": "hello"}, timeout=20)

        assert (not_ready.status_code, not_ready.json()["ready"]) == (503, False)
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "model_unavailable")
        assert f"127.0.0.1:{port}" in refused.json()["error"]["message"]
        assert answered.status_code == 200
        assert running.get("/ready").status_code == 200
    finally:
        running.stop()
        if engine is not None:
            engine.stop()


def test_engine_that_goes_away_is_noticed_and_taken_back(tmp_path: Path) -> None:
    engine = start_echo(tmp_path)
    probes = {"interval_s": 0.2, "fails": 2}
    running = start_gateway(tmp_path, {"models": [model(engine.url, probes=probes)]})
    try:
        assert running.get("/ready").status_code == 200
        engine.stop()
        until(lambda: running.get("/ready").status_code == 503, "the gateway to notice")
        row = running.get("/v1/models/echo").json()
        assert (row["state"], "probes in a row failed" in row["reason"]) == ("failed", True)

        port = int(engine.url.rsplit(":", 1)[1])
        engine = launch(echo_command(port, model_id="back"), engine.url, tmp_path / "back.log")
        until(lambda: running.get("/ready").status_code == 200, "the gateway to see it again")
    finally:
        running.stop()
        engine.stop()


@pytest.mark.parametrize("source", ["variable", "file"])
def test_key_is_asked_for_when_one_is_set(tmp_path: Path, source: str) -> None:
    settings: dict[str, Any] = {"api_key": "right"}
    if source == "file":
        (tmp_path / "keys").write_text("# keys\nother\nright\n", encoding="utf-8")
        settings = {"api_key_file": tmp_path / "keys"}
    running = start_gateway(tmp_path, {"models": [model("http://127.0.0.1:1")]}, **settings)
    try:
        answers = {
            header: httpx.get(running.url + "/v1/models", headers={"authorization": header} if header else {})
            for header in ("", "Bearer right", "bearer right", "Bearer wrong", "Basic right", "right")
        }
        statuses = [answer.status_code for answer in answers.values()]
        assert statuses == [401, 200, 200, 401, 401, 401]
        error = answers[""].json()["error"]
        assert (error["type"], "Authorization: Bearer" in error["hint"]) == ("unauthorized", True)
        assert httpx.get(running.url + "/health").status_code == 200
        assert "right" not in running.output
    finally:
        running.stop()


def test_every_route_but_the_public_ones_is_behind_the_key(tmp_path: Path) -> None:
    """New routes are locked by default; this holds the list of exceptions to the routes that exist."""
    running = start_gateway(tmp_path, {"models": [model("http://127.0.0.1:1")]}, api_key="k")
    app = create_app(Settings(), load_registry(write_registry(tmp_path, model("http://127.0.0.1:1"))))
    routes = [(m, r.path) for r in app.routes if isinstance(r, APIRoute) for m in r.methods]
    try:
        paths = [*routes, ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/nowhere")]
        status = {path: httpx.request(method, running.url + path).status_code for method, path in paths}
        assert {path for path, code in status.items() if code != 401} == PUBLIC_PATHS
    finally:
        running.stop()


def test_without_keys_only_this_machine_may_ask_and_no_foreign_web_page(tmp_path: Path) -> None:
    registry = {"models": [model("http://127.0.0.1:1", aliases=["team/echo"])]}
    running = start_gateway(tmp_path, registry)
    rebound, foreign = {"host": "rebound.example"}, {"origin": "https://page.example"}
    try:
        refused = [httpx.get(running.url + "/v1/models", headers=found) for found in (rebound, foreign)]
        assert [answer.status_code for answer in refused] == [403, 403]
        assert {answer.json()["error"]["type"] for answer in refused} == {"forbidden"}
        assert httpx.get(running.url + "/health", headers=rebound | foreign).status_code == 200
        assert httpx.get(running.url + "/v1/models", headers={"origin": running.url}).status_code == 200
        probes = {path: httpx.head(running.url + path) for path in ("/health", "/ready")}
        assert {path: answer.status_code for path, answer in probes.items()} == {
            "/health": 200,
            "/ready": 503,
        }
        assert [answer.content for answer in probes.values()] == [b"", b""]
        slashed = httpx.get(running.url + "/v1/models/")
        assert (slashed.status_code, slashed.json()["error"]["type"]) == (404, "model_not_found")
        for method, verb in (("POST", "load"), ("POST", "unload"), ("GET", "logs")):
            answer = httpx.request(method, f"{running.url}/v1/models/team/echo/{verb}")
            assert (answer.status_code, "somebody else" in answer.text) == (422, True)
        lost = httpx.get(f"{running.url}/v1/models/{'x' * 5000}")
        assert (lost.status_code, len(lost.content) < 500) == (404, True)
        named = {"model_id": "x" * 5000, "inputs": "hello"}
        lost = httpx.post(f"{running.url}/v1/generate", json=named)
        assert (lost.status_code, len(lost.content) < 500) == (404, True)
    finally:
        running.stop()


@pytest.mark.parametrize("settings", [{"api_key": "k"}, {"allow_anonymous": "true"}])
def test_with_a_lock_any_name_of_the_gateway_will_do(tmp_path: Path, settings: dict[str, str]) -> None:
    running = start_gateway(tmp_path, {"models": [model("http://127.0.0.1:1")]}, **settings)
    headers = {"host": "gateway.example", "origin": "https://page.example", "authorization": "Bearer k"}
    try:
        assert httpx.get(running.url + "/v1/models", headers=headers).status_code == 200
    finally:
        running.stop()


def test_unusable_run_dir_is_said_in_one_sentence(tmp_path: Path) -> None:
    config = str(write_registry(tmp_path, model("http://127.0.0.1:1")))
    (tmp_path / "taken").write_text("", encoding="utf-8")

    refused = run("serve", config=config, port="0", run_dir=str(tmp_path / "taken"))

    assert refused.returncode == 1
    assert f"GATEWAY_RUN_DIR={tmp_path / 'taken'} cannot be used" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(("key", "shown"), [("secret", 3), (None, 0)])
def test_hints_ask_for_the_key_when_the_gateway_does(tmp_path: Path, key: str | None, shown: int) -> None:
    config = write_registry(tmp_path, model("http://127.0.0.1:1"), model("http://127.0.0.1:2", id="other"))
    settings = Settings(config=config, api_key=None if key is None else SecretStr(key))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        hints = _hints(settings, listener)

    assert hints.count('-H "Authorization: Bearer $GATEWAY_API_KEY"') == shown
    assert "secret" not in hints


def test_gateway_refuses_to_listen_beyond_loopback_without_a_key(tmp_path: Path) -> None:
    config = str(write_registry(tmp_path, model("http://127.0.0.1:1")))

    refused = run("serve", config=config, host="0.0.0.0", port="0", run_dir=str(tmp_path))

    assert refused.returncode == 1
    assert "GATEWAY_HOST=0.0.0.0 can be reached from the network, but no key is set" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_taken_port_is_said_in_one_sentence_before_anything_starts(tmp_path: Path) -> None:
    config = str(write_registry(tmp_path, model("http://127.0.0.1:1")))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])

        refused = run("serve", config=config, port=port, run_dir=str(tmp_path))

    assert refused.returncode == 1
    assert f"127.0.0.1:{port} is taken by another process" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    refused = run("serve", port="many", heartbeat_s="0", drain_s="inf", run_dir=str(tmp_path))

    assert refused.returncode == 1
    assert "GATEWAY_PORT: Input should be a valid integer" in refused.stderr
    assert "GATEWAY_HEARTBEAT_S: Input should be greater than 0" in refused.stderr
    assert "GATEWAY_DRAIN_S: Input should be a finite number" in refused.stderr


def test_check_config_says_what_is_there_or_all_that_is_wrong(tmp_path: Path) -> None:
    good = run("check-config", "models/models.yaml")
    broken = run("check-config", str(write_registry(tmp_path, {"id": "a", "family": "nope"})))

    assert (good.returncode, good.stdout) == (0, "models/models.yaml: ok, 2 models: qwen2, llama3\n")
    assert broken.returncode == 1
    assert "2 problems" in broken.stderr
    assert "models[0].family: `nope` does not exist" in broken.stderr


def test_serve_refuses_what_check_config_refuses(tmp_path: Path) -> None:
    config = str(write_registry(tmp_path, {"id": "a", "family": "nope"}))

    refused = run("serve", config=config, port="0", run_dir=str(tmp_path))

    assert (refused.returncode, "2 problems" in refused.stderr) == (1, True)


def test_log_lines_can_be_json(tmp_path: Path) -> None:
    running = start_gateway(tmp_path, {"models": [model("http://127.0.0.1:1")]}, log_format="json")
    running.get("/health")
    running.stop()

    lines = [yaml.safe_load(line) for line in running.output.splitlines()]
    assert any(line["message"] == "GET /health 200" and line["status"] == "200" for line in lines)


def test_running_answer_is_finished_before_the_gateway_ends(tmp_path: Path) -> None:
    engine = start_echo(tmp_path, tokens_per_s=20)
    running = start_gateway(tmp_path, {"models": [model(engine.url)]})
    body = {"inputs": "word " * 30, "scenario": "raw", "parameters": {"max_new_tokens": 20}, "stream": True}
    try:
        with httpx.stream("POST", running.url + "/v1/generate", json=body, timeout=20) as response:
            chunks = response.iter_raw()
            next(chunks)
            running.process.terminate()
            rest = b"".join(chunks)
        assert b"event: done" in rest
        assert running.process.wait(20) == 0
    finally:
        running.stop()
        engine.stop()


def test_who_only_waits_or_listens_does_not_hold_up_the_end(tmp_path: Path) -> None:
    record = owned("slow", load_s=60)
    running = start_gateway(tmp_path, {"models": [record]}, drain_s=30)
    body = {"inputs": "hello", "stream": True}
    try:
        with (
            httpx.stream("GET", running.url + "/v1/events", timeout=30) as listening,
            httpx.stream("POST", running.url + "/v1/generate", json=body, timeout=30) as waiting,
        ):
            chunks = waiting.iter_raw()
            next(chunks)
            running.process.terminate()
            assert b"shutting down" in b"".join(chunks)
            assert b"event: model" in listening.read()
        assert running.process.wait(20) == 0
    finally:
        running.stop()


def test_make_down_stops_the_gateway_of_this_folder(tmp_path: Path) -> None:
    running = start_gateway(tmp_path, {"models": [model("http://127.0.0.1:1")]})
    env = {**os.environ, "GATEWAY_RUN_DIR": str(tmp_path / "run")}
    down = [str(REPOSITORY / "scripts" / "down.sh")]
    try:
        # The stopped process is our child: somebody has to take note of its end while the script looks.
        with subprocess.Popen(down, env=env, stdout=subprocess.PIPE, text=True) as script:
            assert running.process.wait(20) == 0
            assert script.communicate(timeout=20)[0] == "Stopped.\n"
        again = subprocess.run(down, env=env, capture_output=True, text=True, timeout=20, check=True)
        assert again.stdout == "No gateway of this folder runs.\n"
    finally:
        running.stop()
