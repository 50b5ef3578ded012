"""The supervisor as it is used: a real process, real sockets, and engines that behave badly."""

from __future__ import annotations

import ast
import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway import supervisor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

TOKEN = "correct-horse-battery"
FILE = Path(supervisor.__file__)

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEP
# A grandchild in a session of its own, whose parent is gone: no signal to a process group finds it.
ESCAPE = """
import os, time
said, say = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("escaped", os.getpid(), flush=True)
        os.write(say, b"!")
        time.sleep(600)
    os._exit(0)
os.wait()
os.read(said, 1)  # whoever ends before may see it killed before it spoke
"""


def wait_until(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)
    return value


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Supervised:
    """One supervisor process and how to speak to it."""

    def __init__(self, process: subprocess.Popen[bytes], stderr: Path) -> None:
        assert process.stdout is not None
        self.process, self.stderr = process, stderr
        self.port = int(json.loads(process.stdout.readline())["address"].rpartition(":")[2])

    def connect(self, timeout_s: float = 10.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def raw(
        self, method: str, path: str, body: bytes | None = None, token: str | None = TOKEN, **headers: str
    ) -> tuple[int, bytes]:
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        connection = self.connect()
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, answer = self.raw(method, path, None if body is None else json.dumps(body).encode())
        return status, json.loads(answer)

    def status(self) -> Any:
        return self.call("GET", "/status")[1]

    def start(self) -> Any:
        return self.call("POST", "/start")[1]

    def until(self, timeout_s: float = 10.0, **wanted: Any) -> Any:
        def reached() -> Any:
            status = self.status()
            return status if all(status[key] == value for key, value in wanted.items()) else None

        return wait_until(reached, timeout_s)

    def until_said(self, pattern: str, timeout_s: float = 10.0) -> str:
        def said() -> re.Match[str] | None:
            return next((hit for line in self.status()["lines"] if (hit := re.search(pattern, line))), None)

        return str(wait_until(said, timeout_s).group(1))

    def follow(self, path: str) -> http.client.HTTPResponse:
        connection = self.connect()
        connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        response = connection.getresponse()
        assert response.status == 200
        return response

    def resident_bytes(self) -> int:
        return supervisor.resident_bytes(self.process.pid)


Supervise = Callable[..., Supervised]


def supervising(folder: Path) -> Iterator[Supervise]:
    processes: list[subprocess.Popen[bytes]] = []

    def begin(
        engine: str | Sequence[str],
        *options: str,
        env: dict[str, str] | None = None,
        listen: str = "127.0.0.1:0",
    ) -> Supervised:
        command = [sys.executable, "-IS", "-c", engine] if isinstance(engine, str) else list(engine)
        stderr = folder / f"stderr-{len(processes)}"
        with stderr.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, str(FILE), "--listen", listen, "--announce", *options, "--", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "SUPERVISOR_TOKEN": TOKEN, **(env or {})},
            )
        processes.append(process)
        return Supervised(process, stderr)

    yield begin
    for process in processes:
        # One that has ended on its own account was the point of its test.
        process.terminate()
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail("two signals did not end a supervisor")
        finally:
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    yield from supervising(tmp_path)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    """A supervisor for the tests that must leave it as it was: its engine never runs."""
    for begin in supervising(tmp_path_factory.mktemp("one")):
        yield begin(SLEEP)


# What it is made of.


def test_it_is_python_3_9_and_imports_only_the_standard_library() -> None:
    tree = ast.parse(FILE.read_text(encoding="utf-8"), feature_version=(3, 9))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


# The life of an engine.


def test_an_engine_starts_stops_and_starts_again(supervise: Supervise) -> None:
    s = supervise(SLEEP)
    assert s.status()["state"] == "stopped"

    code, started = s.call("POST", "/start")
    assert (code, started["state"], started["phase"], started["starts"]) == (202, "running", "starting", 1)
    assert alive(started["pid"])
    s.until_said("(up)")

    code, stopping = s.call("POST", "/stop")
    assert (code, stopping["state"]) == (202, "stopping")
    stopped = s.until(state="stopped")
    assert (stopped["exit_signal"], stopped["reason"], stopped["pid"]) == (signal.SIGTERM, None, None)
    assert not alive(started["pid"])

    again = s.start()
    assert (again["starts"], again["exit_signal"]) == (2, None)
    assert again["pid"] != started["pid"]


def test_a_second_start_changes_nothing(supervise: Supervise) -> None:
    s = supervise(SLEEP)
    first = s.start()
    code, second = s.call("POST", "/start")
    assert (code, second["pid"], second["starts"]) == (200, first["pid"], 1)


def test_a_stop_may_be_repeated(supervise: Supervise) -> None:
    s = supervise(SLEEP)
    assert s.call("POST", "/stop")[0] == 202
    s.start()
    assert [s.call("POST", "/stop")[0] for _ in range(3)] == [202] * 3
    s.until(state="stopped")
    assert s.call("POST", "/stop") == (202, s.status())


def test_a_start_while_stopping_is_refused(supervise: Supervise) -> None:
    s = supervise(STUBBORN)
    s.start()
    s.until_said("(up)")
    s.call("POST", "/stop", {"grace_s": 60})
    code, answer = s.call("POST", "/start")
    assert (code, answer["error"]["type"]) == (409, "conflict")
    assert "stopping" in answer["error"]["message"]


def test_autostart_starts_without_being_asked(supervise: Supervise) -> None:
    supervise(SLEEP, "--autostart").until(state="running", starts=1)


@pytest.mark.parametrize(
    ("engine", "wanted", "in_reason"),
    [
        ("import sys; print('boom: no weights'); sys.exit(3)", {"exit_code": 3}, "boom: no weights"),
        ("print('half a line', end='')", {"exit_code": 0}, "half a line"),
        ("import os; os.kill(os.getpid(), 9)", {"exit_signal": 9, "exit_code": None}, "Killed"),
        (["/nowhere/engine"], {"exit_code": None, "pid": None}, "cannot run /nowhere/engine: "),
    ],
    ids=["exits", "exits-without-newline", "is-killed", "is-not-there"],
)
def test_an_engine_that_dies_at_once_is_failed_with_a_reason(
    supervise: Supervise, engine: str | list[str], wanted: dict[str, Any], in_reason: str
) -> None:
    s = supervise(engine)
    assert s.call("POST", "/start")[0] == 202
    failed = s.until(state="failed", **wanted)
    assert in_reason in failed["reason"]
    assert s.start()["starts"] == 2  # and may be tried again


def test_a_stop_acknowledges_a_failure_and_keeps_its_reason(supervise: Supervise) -> None:
    s = supervise("raise SystemExit('boom')")
    s.start()
    reason = s.until(state="failed")["reason"]
    assert s.call("POST", "/stop")[1]["state"] == "stopped"
    assert s.status()["reason"] == reason


def test_an_engine_that_ignores_sigterm_is_killed_after_the_grace(supervise: Supervise) -> None:
    s = supervise(STUBBORN)
    s.start()
    s.until_said("(up)")
    began = time.monotonic()
    s.call("POST", "/stop", {"grace_s": 0.4})
    stopped = s.until(state="stopped")
    assert 0.4 <= time.monotonic() - began < 3
    assert stopped["exit_signal"] == signal.SIGKILL
    assert "did not end in time" in stopped["reason"]


def test_a_second_stop_can_only_shorten_the_grace(supervise: Supervise) -> None:
    s = supervise(STUBBORN)
    s.start()
    s.until_said("(up)")
    for grace_s in (60, 0.5, 60):
        s.call("POST", "/stop", {"grace_s": grace_s})
    s.until(5, state="stopped")


def test_a_stop_reaches_a_grandchild_that_left_the_session(supervise: Supervise) -> None:
    s = supervise(ESCAPE + SLEEP)
    s.start()
    escaped = int(s.until_said(r"escaped (\d+)"))
    s.until_said("(up)")
    s.call("POST", "/stop")
    s.until(state="stopped")
    assert not alive(escaped)


def test_what_a_dead_engine_leaves_behind_is_killed(supervise: Supervise) -> None:
    s = supervise(ESCAPE + "raise SystemExit(4)")
    s.start()
    failed = s.until(state="failed", exit_code=4)
    escaped = int(re.search(r"escaped (\d+)", "\n".join(failed["lines"]))[1])  # type: ignore[index]
    assert not alive(escaped)
    assert failed["memory_bytes"] is None


def test_orphans_of_a_running_engine_are_reaped(supervise: Supervise) -> None:
    s = supervise(
        "import os\nif os.fork() == 0:\n  if os.fork() == 0: os._exit(0)\n  os._exit(0)\nos.wait()\n" + SLEEP
    )
    s.start()
    s.until_said("(up)")

    def children() -> list[str]:
        pid = s.process.pid
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    wait_until(lambda: children() == [str(s.status()["pid"])])


def test_memory_is_that_of_all_processes(supervise: Supervise) -> None:
    size = 40_000_000
    s = supervise(f"import os\nif os.fork() == 0: held = b'x' * {size}\nheld2 = b'y' * {size}\n" + SLEEP)
    s.start()

    def measured() -> int:
        return s.call("GET", "/status?memory=1")[1]["memory_bytes"] or 0

    assert wait_until(lambda: measured() > 1.9 * size)
    assert measured() < 4 * size


def test_memory_is_measured_only_when_asked_for(supervise: Supervise) -> None:
    s = supervise(SLEEP)
    assert s.call("GET", "/status?memory=1")[1]["memory_bytes"] is None
    assert s.start()["memory_bytes"] is None
    assert s.call("GET", "/status?memory=1")[1]["memory_bytes"] > 0
    for path in ("/status", "/status?memory=0", "/status?memory="):
        assert s.call("GET", path)[1]["memory_bytes"] is None
    assert next(events_of(s.follow("/events?memory=1")))["memory_bytes"] is None


def test_an_engine_that_wants_the_supervisors_port_shows_its_own_error(supervise: Supervise) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    take = f"import socket; s = socket.socket(); s.bind(('127.0.0.1', {port})); s.listen(); " + SLEEP
    s = supervise(take, listen=f"127.0.0.1:{port}")
    s.start()
    assert "Address already in use" in s.until(state="failed")["reason"]


# Its own end.


def test_kill_9_of_the_supervisor_takes_the_engine_along(supervise: Supervise) -> None:
    s = supervise(STUBBORN)
    pid = s.start()["pid"]
    s.until_said("(up)")
    s.process.kill()
    wait_until(lambda: not alive(pid))


def test_sigterm_ends_the_engine_in_order_then_the_supervisor(supervise: Supervise) -> None:
    engine = (
        "import os, signal, sys; signal.signal(15, lambda *_: (os.write(1, b'drained\\n'), sys.exit(0)));"
        + SLEEP
    )
    s = supervise(engine)
    pid = s.start()["pid"]
    s.until_said("(up)")
    s.process.terminate()
    assert s.process.wait(10) == 0
    assert not alive(pid)
    assert "drained" in s.stderr.read_text()


def test_sigterm_with_nothing_running_ends_it_at_once(supervise: Supervise) -> None:
    s = supervise(SLEEP)
    s.process.terminate()
    assert s.process.wait(5) == 0


def test_nothing_starts_while_the_supervisor_is_ending(supervise: Supervise) -> None:
    s = supervise(STUBBORN)
    s.start()
    s.until_said("(up)")
    s.process.terminate()
    s.until(state="stopping")
    code, answer = s.call("POST", "/start")
    assert (code, "the supervisor is ending" in answer["error"]["message"]) == (409, True)


def test_a_second_signal_kills_at_once(supervise: Supervise) -> None:
    s = supervise(STUBBORN, "--grace-s", "60")
    pid = s.start()["pid"]
    s.until_said("(up)")
    s.process.terminate()
    s.until(state="stopping")
    s.process.send_signal(signal.SIGINT)
    assert s.process.wait(5) == 0
    assert not alive(pid)


def test_the_end_of_stdin_ends_all_when_it_is_the_lifeline(supervise: Supervise) -> None:
    s = supervise(STUBBORN + ESCAPE, "--exit-on-stdin-eof", "--grace-s", "0.2")
    pid = s.start()["pid"]
    s.until_said("(up)")
    assert s.process.stdin is not None
    s.process.stdin.write(b"anything")
    s.process.stdin.close()
    assert s.process.wait(10) == 0
    assert not alive(pid)


def test_the_end_of_stdin_means_nothing_otherwise(supervise: Supervise) -> None:
    s = supervise(SLEEP)
    assert s.process.stdin is not None
    s.process.stdin.close()
    assert s.start()["state"] == "running"


# Logs and phases.


def test_a_flood_of_lines_is_kept_short_and_the_api_answers(supervise: Supervise) -> None:
    s = supervise("for n in range(100_000): print('line', n, 'x' * 60)\n" + SLEEP)
    s.start()
    slowest_s = 0.0
    while "up" not in s.status()["lines"]:
        began = time.monotonic()
        s.status()
        slowest_s = max(slowest_s, time.monotonic() - began)
    assert slowest_s < 5.0
    assert s.resident_bytes() < 80_000_000
    kept = s.raw("GET", "/logs?tail=999999")[1].decode().splitlines()
    assert len(kept) == supervisor.LOG_LINES
    assert kept[-2:] == [f"line 99999 {'x' * 60}", "up"]
    assert s.stderr.read_text().count("\n") == 100_001  # passed on whole, as stderr took it


def test_a_flood_without_newlines_is_cut_and_the_api_answers(supervise: Supervise) -> None:
    s = supervise(
        "import os\nfor n in range(1000): os.write(1, b'x' * 100_000)\nos.write(1, b'\\n')\n" + SLEEP
    )
    s.start()
    s.until_said("^(up)$")
    lines = s.status()["lines"]
    assert [len(line) for line in lines] == [supervisor.LINE_BYTES, 2]
    assert s.resident_bytes() < 80_000_000


def test_a_stderr_that_nobody_reads_holds_nothing_up(tmp_path: Path) -> None:
    flood = "import os\nfor n in range(300): os.write(1, b'y' * 9_999 + b'\\n')\n" + SLEEP
    process = subprocess.Popen(
        [
            sys.executable,
            str(FILE),
            "--listen",
            "127.0.0.1:0",
            "--announce",
            "--",
            sys.executable,
            "-c",
            flood,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "SUPERVISOR_TOKEN": TOKEN},
    )
    with process:
        s = Supervised(process, tmp_path)
        s.start()
        s.until_said("^(up)$")
        process.terminate()


TGI_LOG = """\
10:00:00Z  INFO text_generation_launcher: Args {
10:00:00Z  INFO download: text_generation_launcher: Starting check and download process for some/model
10:00:01Z  INFO text_generation_launcher: Download: [1/4] -- ETA: 0:00:30
10:00:02Z  INFO text_generation_launcher: Download: [4/4] -- ETA: 0
10:00:03Z  INFO download: text_generation_launcher: Successfully downloaded weights for some/model
10:00:03Z  INFO shard-manager: text_generation_launcher: Starting shard rank=0
10:00:13Z  INFO shard-manager: text_generation_launcher: Waiting for shard to be ready... rank=0
10:00:20Z  INFO shard-manager: text_generation_launcher: Shard ready in 17.1s rank=0
10:00:20Z  INFO text_generation_launcher: Starting Webserver
\x1b[2m10:00:21Z\x1b[0m \x1b[32m INFO\x1b[0m text_generation_router_v3: lib.rs:125: Warming up model
10:00:25Z  INFO text_generation_router_v3: lib.rs:137: Setting max batch total tokens to 36000
\x1b[2m10:00:26Z\x1b[0m \x1b[32m INFO\x1b[0m text_generation_router::server: server.rs:2402: Connected
10:05:00Z  INFO text_generation_launcher: Starting shard rank=0
"""


def events_of(response: http.client.HTTPResponse) -> Iterator[Any]:
    for line in response:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def test_events_tell_every_change_of_a_tgi_start_in_order(supervise: Supervise, tmp_path: Path) -> None:
    log = tmp_path / "tgi.log"
    log.write_text(TGI_LOG)
    s = supervise(f"print(open({str(log)!r}).read(), flush=True);" + SLEEP)
    with s.follow("/events") as response:
        assert response.headers["content-type"] == "text/event-stream"
        events = events_of(response)
        assert next(events)["state"] == "stopped"
        s.start()
        seen = list(itertools.islice(events, 7))
        s.until_said("^(up)$")
        s.call("POST", "/stop")
        seen += itertools.islice(events, 2)
    assert [(event["state"], event["phase"], event["progress"]) for event in seen] == [
        ("running", "starting", None),
        ("running", "downloading", None),
        ("running", "downloading", 0.25),
        ("running", "downloading", 1.0),
        ("running", "loading", None),
        ("running", "warming_up", None),
        ("running", "ready", None),
        ("stopping", None, None),
        ("stopped", None, None),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("INFO phase=loading progress=0.25 model=qwen2", ("loading", 0.25)),
        ("phase=warming_up", ("warming_up", 0.0)),
        ("phase=ready", ("ready", 0.0)),
        ("phase=loading progress=7", ("loading", 1.0)),
        ('{"level":"INFO","message":"Connected","target":"text_generation_router::server"}', ("ready", 0.0)),
        ('{"level":"INFO","message":"Starting shard","target":"text_generation_launcher"}', ("loading", 0.0)),
        ("INFO text_generation_launcher: Starting download process.", ("downloading", 0.0)),
        ("Loading safetensors checkpoint shards:  40% Completed | 2/5 [00:00<00:00]", ("loading", 0.4)),
        ("INFO:     Application startup complete.", ("ready", 0.0)),
        ("srv          main: model loaded", ("ready", 0.0)),
        ("phase=elsewhere", None),
        ("phase=loading progress=1.2.3", None),
        ("Download: [1/0] -- ETA: 0", None),
        ("Gloo: Rank 0 is Connected", None),
        ("", None),
    ],
)
def test_a_line_says_its_phase(line: str, said: tuple[str, float] | None) -> None:
    found = supervisor.read_phase(line)
    assert (found and (supervisor.PHASES[found[0]], found[1])) == said


def test_logs_can_be_tailed_and_followed(supervise: Supervise) -> None:
    s = supervise("for n in range(5): print('old', n)\nprint('up', flush=True)\nimport time\n" + SLEEP)
    s.start()
    s.until_said("(up)")
    assert s.raw("GET", "/logs?tail=2")[1].decode().splitlines()[-1] == "up"
    assert s.raw("GET", "/logs?tail=0")[1] == b""
    with s.follow("/logs?tail=1&follow=1") as response:
        assert response.readline() == b"up\n"
        s.call("POST", "/stop")
        s.until(state="stopped")
        s.start()
        assert response.readline() == b"old 0\n"


# Who may ask, and for what.


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1], "é"])
@pytest.mark.parametrize("path", ["/status", "/start", "/stop", "/events", "/logs", "/elsewhere"])
def test_nothing_is_said_without_the_token(one: Supervised, path: str, token: str | None) -> None:
    method = "POST" if path in ("/start", "/stop") else "GET"
    code, answer = one.raw(method, path, token=token and token.encode().decode("latin-1"))
    assert code == 401
    assert TOKEN not in answer.decode()
    assert one.status()["starts"] == 0


@pytest.mark.parametrize(
    ("method", "path", "body", "wanted"),
    [
        ("POST", "/start", b'{"command": ["sh"]}', 422),
        ("POST", "/start", b'{"grace_s": 1}', 422),
        ("POST", "/stop", b'{"grace_s": 1, "args": []}', 422),
        ("POST", "/stop", b'{"grace_s": -1}', 422),
        ("POST", "/stop", b'{"grace_s": NaN}', 422),
        ("POST", "/stop", b'{"grace_s": true}', 422),
        ("POST", "/stop", b'{"grace_s": "1"}', 422),
        ("POST", "/start", b'["sh"]', 400),
        ("POST", "/start", b"{", 400),
        ("POST", "/start", b"[" * 4096, 400),
        ("POST", "/start", b"\xff", 400),
        ("POST", "/start", b" " * 5000, 413),
        ("POST", "/start", b" " * 900_000, 413),
        ("POST", "/command", b"{}", 404),
        ("POST", "/start/sh", b"{}", 404),
        ("POST", "/status", b"{}", 404),
        ("GET", "/start", None, 404),
        ("PUT", "/start", b"{}", 405),
        ("PATCH", "/status", b"{}", 405),
        ("GET", "/logs?tail=-1", None, 422),
        ("GET", "/logs?tail=two", None, 422),
    ],
)
def test_the_command_cannot_be_changed_and_bad_requests_are_told(
    one: Supervised, method: str, path: str, body: bytes | None, wanted: int
) -> None:
    before = one.status()
    code, answer = one.raw(method, path, body)
    assert code == wanted
    assert json.loads(answer)["error"].keys() == {"type", "message"}
    assert one.status() == before


def test_a_body_without_a_length_is_refused(one: Supervised) -> None:
    code, answer = one.raw("POST", "/stop", None, **{"Transfer-Encoding": "chunked"})
    assert (code, json.loads(answer)["error"]["type"]) == (411, "invalid_request")


@pytest.mark.parametrize(
    ("printed", "kept"),
    [
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b[?25l\x1b[>4;2mhide\x1b[2 q", "hide"),
        (b"\x1b]0;title\x07after", "after"),
        (b"\x1b]52;c;cm0gLXJm\x1b\\after", "after"),
        (b"\x1bPq#0\x1b\\after\x1b_x\x1b\\", "after"),
        (b"\x1b]0;never ended", "0;never ended"),
        (b"\x1b(B\x1b7saved\x1b8\x1bc\x1b", "saved"),
        (b"a\x00b\x07c\x08d\x0be\x0cf\x7fg\x1ah", "abcdefgh"),
        (b"\xc2\x9b31mred\xc2\x9d0;title\xc2\x9cx\xc2\x85y", "redxy"),
        (b"\x1b[\x1b[31m31mnested", "31mnested"),
        ("tab\there, \u4f60\u597d \xe9".encode(), "tab\there, \u4f60\u597d \xe9"),
        (b"\x9b31m", "\ufffd31m"),
    ],
)
def test_a_line_is_kept_without_what_a_terminal_would_obey(printed: bytes, kept: str) -> None:
    text = supervisor.CONTROL.sub("", printed.decode("utf-8", "replace"))
    assert text == kept


def test_the_log_and_stderr_have_no_terminal_control_sequences(supervise: Supervise) -> None:
    lines = b"\x1b]0;t\x07one\n\x1b[2J\n\x1b[31mtwo\x1b[0m\x08\n\tthree\n"
    s = supervise(f"import os; os.write(1, {lines!r});" + SLEEP)
    s.start()
    s.until_said("(up)")
    assert s.status()["lines"] == ["one", "two", "\tthree", "up"]
    assert s.raw("GET", "/logs")[1] == s.stderr.read_bytes() == b"one\ntwo\n\tthree\nup\n"


def test_secrets_are_masked_in_the_command_and_in_the_log(supervise: Supervise) -> None:
    engine = "import os, sys; print(sys.argv, sorted(os.environ.items()), flush=True);" + SLEEP
    arguments = [
        "--api-key",
        "sesame-opens",
        "--hf-token=hf_abcdefgh",
        "--max-total-tokens",
        "4096",
        "--x",
        "KEY=12345678",
    ]
    s = supervise(
        [sys.executable, "-c", engine, *arguments],
        env={"MY_API_KEY": "from-the-environment", "GATEWAY_HOST": "the-gateways-own"},
    )
    s.start()
    s.until_said("(up)")
    shown = ["--api-key", "***", "--hf-token=***", "--max-total-tokens", "4096", "--x", "KEY=***"]
    assert s.status()["command"][3:] == shown
    everything = json.dumps(s.status()) + s.raw("GET", "/logs")[1].decode() + s.stderr.read_text()
    for secret in (
        "sesame-opens",
        "hf_abcdefgh",
        "12345678",
        "from-the-environment",
        TOKEN,
        "SUPERVISOR_TOKEN",
        "GATEWAY_",
        "the-gateways-own",
    ):
        assert secret not in everything
    assert "4096" in s.stderr.read_text()


def run_briefly(*options: str, token: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FILE), *options],
        env={**os.environ, "SUPERVISOR_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=20,
    )


@pytest.mark.parametrize(
    ("options", "token", "said"),
    [
        (["--listen", "0.0.0.0:0", "--", "true"], "", "a token is needed on 0.0.0.0"),
        (["--listen", "[::]:0", "--", "true"], "", "a token is needed on [::]"),
        (["--listen", "engine:0", "--", "true"], "", "a token is needed on engine"),
        (["--listen", "127.0.0.1:0"], "t", "a command after --"),
        (["--listen", "8080", "--", "true"], "t", "--listen HOST:PORT"),
        (["--listen", "127.0.0.1:0", "--grace-s", "nan", "--", "true"], "t", "a grace of 0 to 3600 s"),
        (["--listen", "127.0.0.1:0", "--token-file", "/nowhere", "--", "true"], "", "cannot read the token"),
        (["--listen", "127.0.0.1:0", "--token-file", os.devnull, "--", "true"], "", "is empty"),
        (
            ["--listen", "127.0.0.1:0", "--command", "sh", "--", "true"],
            "t",
            "unrecognized arguments: --command",
        ),
    ],
)
def test_it_refuses_to_run_with_words(options: list[str], token: str, said: str) -> None:
    ended = run_briefly(*options, token=token)
    assert ended.returncode == 2
    assert said in ended.stderr


def test_a_taken_port_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run_briefly("--listen", address, "--", "true", token="t")
    assert (ended.returncode, f"cannot listen on {address}" in ended.stderr) == (1, True)


def test_the_token_may_come_from_a_file_and_none_is_needed_on_loopback(
    supervise: Supervise, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("from-a-file\n")
    s = supervise(SLEEP, "--token-file", str(file))
    assert [s.raw("GET", "/status", token=token)[0] for token in ("from-a-file", TOKEN)] == [200, 401]
    open_to_all = supervise(SLEEP, env={"SUPERVISOR_TOKEN": ""})
    assert open_to_all.raw("GET", "/status", token=None)[0] == 200


def test_followers_are_bounded_and_their_places_come_back(one: Supervised) -> None:
    followers = [one.follow("/events") for _ in range(supervisor.FOLLOWERS)]
    assert one.raw("GET", "/events")[0] == 503
    assert one.status()["state"] == "stopped"
    for follower in followers:
        follower.close()

    def again() -> bool:
        connection = one.connect()
        connection.request("GET", "/events", headers={"Authorization": f"Bearer {TOKEN}"})
        with connection.getresponse() as response:
            connection.close()
            return response.status == 200

    wait_until(again)


def test_connections_are_bounded_and_their_places_come_back(one: Supervised) -> None:
    idle = [socket.create_connection(("127.0.0.1", one.port), 5) for _ in range(supervisor.CONNECTIONS)]
    with socket.create_connection(("127.0.0.1", one.port), 5) as surplus:
        assert surplus.recv(1) == b""
    for connection in idle:
        connection.close()

    def answers() -> bool:
        try:
            return one.raw("GET", "/status")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    wait_until(answers)
