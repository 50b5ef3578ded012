"""``python -m loadtest`` as people run it: short, with engines sixty times as fast."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from documents import REPOSITORY
from harness import model as running_model
from harness import start_echo, start_gateway

from loadtest import results
from loadtest.__main__ import DISAGREED, OK, PROBLEM

pytestmark = pytest.mark.timeout(300)  # whole runs, on machines that may be busy
SHORT = ["--speed-scale", "60", "--users", "8", "--wait-s", "0.3", "--duration", "4s", "--alone", "3s"]


def loadtest(*arguments: str, expected: int = OK, env: dict[str, str] | None = None) -> str:
    """Run it; what it said. Fails unless its exit status is the expected one."""
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=env,
    )
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout + done.stderr


def only_folder(path: Path) -> Path:
    (folder,) = path.iterdir()
    return folder


def test_one_command_gives_the_report_and_render_gives_it_again(tmp_path: Path) -> None:
    places = ["--run-dir", str(tmp_path / "run"), "--docs", str(tmp_path / "docs")]
    said = loadtest(*SHORT, "--processes", "2", *places)
    assert "counted the same" in said
    assert "all    " in said or "done after" in said, "progress is told"
    pages = sorted(path.name for path in (tmp_path / "docs").glob("*.md"))
    assert pages == ["PERFORMANCE_TEST.md", "PERFORMANCE_TEST.zh-CN.md"]
    folder = only_folder(tmp_path / "run")
    found = results.load(folder)
    assert [part.name for part in found.parts] == ["all", "alone-qwen2", "alone-llama3"]
    assert [part.name for part in found.parts if not part.records] == []
    assert [part.name for part in found.parts if not part.samples] == []
    assert {"engine_answers", "each_once"} <= {check["what"] for check in found.checks}
    loadtest("--render", str(folder), "--docs", str(tmp_path / "again"))
    for path in (tmp_path / "docs").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "docs")).read_bytes()
    _a_disagreement_is_a_failure(folder, tmp_path)


def _a_disagreement_is_a_failure(folder: Path, docs: Path) -> None:
    head = json.loads((folder / results.FILE).read_text(encoding="utf-8"))
    head["stands"][0]["checks"][0]["ok"] = False
    (folder / results.FILE).write_text(json.dumps(head), encoding="utf-8")
    said = loadtest("--render", str(folder), "--docs", str(docs / "other"), expected=DISAGREED)
    assert "The counts do not agree, so this run has failed" in said


def test_a_gateway_that_runs_is_asked_at_its_address_with_a_key(tmp_path: Path) -> None:
    engine = start_echo(tmp_path)
    gateway = start_gateway(tmp_path, {"models": [running_model(engine.url)]}, api_key="secret")
    try:
        short = ["--url", gateway.url, "--users", "4", "--wait-s", "0.3", "--duration", "3s", "--no-alone"]
        short += ["--run-dir", str(tmp_path / "run"), "--docs", str(tmp_path / "docs")]
        said = loadtest(*short, expected=PROBLEM)
        assert "answers with 401. Put a key into GATEWAY_API_KEY." in said
        assert "Traceback" not in said
        gateway.get("/health")
        said = loadtest(*short, env={"PATH": "/usr/bin:/bin", "GATEWAY_API_KEY": "secret"})
        assert "counted the same" in said
        assert "secret" not in (tmp_path / "docs" / "PERFORMANCE_TEST.md").read_text(encoding="utf-8")
        # Its counts did not begin at zero the second time.
        loadtest(*short, env={"PATH": "/usr/bin:/bin", "GATEWAY_API_KEY": "secret"})
    finally:
        gateway.stop()
        engine.stop()


def test_two_equal_sides_are_compared_in_turn(tmp_path: Path) -> None:
    both = ["--compare", "GATEWAY_LOG_LEVEL=info", "GATEWAY_LOG_LEVEL=info", "--rounds", "3", "--round", "2s"]
    said = loadtest(*both, *SHORT[:4], "--run-dir", str(tmp_path / "run"), "--docs", str(tmp_path / "docs"))
    rounds = [line.split(": ")[1][0] for line in said.splitlines() if line.startswith("Round")]
    assert "".join(rounds) == "ABBAAB"
    assert "counted the same" in said
    assert (tmp_path / "docs" / "COMPARISON_TEST.zh-CN.md").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--url", "http://127.0.0.1:1"], "Nothing answers at http://127.0.0.1:1/v1/models"),
        (["--render", "/nowhere"], "/nowhere does not hold the results of a run"),
        (["--compare", "nothing", "at-all"], "'nothing' is no model (qwen2, llama3), no setting"),
        (["--compare", "qwen2", "GATEWAY_X=1"], "qwen2 is a model, and GATEWAY_X=1 a setting"),
        (
            ["--saturation", "--no-alone", "--url", "http://127.0.0.1:1"],
            "--saturation needs a gateway of its own",
        ),
        (
            ["--models", "nobody", "--no-alone", *SHORT],
            "The gateway has no model nobody; it has: qwen2, llama3",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    text = loadtest(*arguments, "--run-dir", str(tmp_path), "--no-report", expected=PROBLEM)
    assert said in text
    assert "Traceback" not in text


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = loadtest("--port", str(port), "--run-dir", str(tmp_path), "--no-report", expected=PROBLEM)
    assert f"Port {port} is taken" in said


def test_nothing_but_locust_itself_patches_sockets() -> None:
    """What runs and reports is imported by tests and by the command: Locust's patches must not come along."""
    said = "import sys, loadtest.runs, loadtest.compare, loadtest.report.pages, loadtest.__main__; "
    said += "print([name for name in ('gevent', 'locust') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", said], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
