"""Locust as people start it, against a real gateway and real echo engines: headless, with its page, with
workers. Always as a process of its own: it patches Python's sockets for the whole process that imports it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from documents import REPOSITORY
from harness import free_port, until

from loadtest import agreement
from loadtest.records import Record, UnreadableRecords, locust_counts, read
from loadtest.stand import Setup, Stand, open_stand

FAST = 60.0
CLASSES = ("SeedUser", "StreamUser", "ChatUser", "ImpatientUser", "AlternatingUser", "OpenAIUser")


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with open_stand(Setup(speed_scale=FAST), tmp_path_factory.mktemp("stand")) as opened:
        yield opened


def locust(*arguments: str, file: str = "locustfile.py", **env: str) -> list[str]:
    return [sys.executable, "-m", "locust", "-f", str(REPOSITORY / "loadtest" / file), *arguments]


def finished(command: list[str], folder: Path, **env: str) -> str:
    """What it said; fails unless it ended well. Started elsewhere than here, as people would."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def headless(stand: Stand, folder: Path, *arguments: str, enough: Enough, users: int = 12) -> list[Record]:
    """The records of a run that lasts until there are ``enough``, and ends in order."""
    records = folder / "records"
    command = locust("--headless", "--host", stand.url, "--only-summary", "--stop-timeout", "30")
    command += ["--users", str(users), "--spawn-rate", str(users)]
    command += ["--wait-s", "0.2", "--records", str(records), *arguments]
    log = folder / "locust.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    try:
        until(lambda: process.poll() is not None or enough(_so_far(records)), "enough records", 80)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text(encoding="utf-8")
    finally:
        process.kill()
        process.wait()
    return read(records)


Enough = Callable[[list[Record]], bool]


def _so_far(folder: Path) -> list[Record]:
    try:
        return read(folder)
    except UnreadableRecords:
        return []  # the last line is not complete yet


def _everything(records: list[Record]) -> bool:
    """Every class has had an answer from both models or has left, and some chats have grown."""
    ended = {(one.user, one.model) for one in records if one.outcome in ("ok", "left")}
    left = any(one.outcome == "left" for one in records)
    return left and len(ended) >= 2 * len(CLASSES) - 2 and _grown(records) and len(records) >= 60


def _grown(records: list[Record]) -> bool:
    chats = [one.prompt_tokens for one in records if one.kind == "chat" and one.outcome == "ok"]
    return any(after > before for before, after in itertools.pairwise(chats))


def test_every_kind_of_user_asks_and_everybody_counts_the_same(tmp_path: Path) -> None:
    """With a stand of its own: engines have written their last counts once it is closed."""
    with open_stand(Setup(speed_scale=FAST), tmp_path / "stand") as own:
        # Two of each class, whatever the weights.
        records = headless(own, tmp_path, *CLASSES, "--config-users", _each(2), enough=_everything)
        own.await_idle()
        page = own.page()
    counts = locust_counts(tmp_path / "records")
    counted = agreement.Counted([counts], page, own.engine_counts(), own.logged())
    assert [one for one in agreement.check(records, counted) if not one.ok] == []
    assert {one.user for one in records} == set(CLASSES)
    assert {one.outcome for one in records} <= {"ok", "left", "cut"}, Counter(one.error for one in records)
    assert {one.model for one in records} == {"qwen2", "llama3"}
    # And it would have been seen: one request less on either side is one too many on the other.
    assert [one for one in agreement.check(records[1:], counted) if not one.ok]
    _rows(counts["rows"])
    _each_kind(records)


def _each(count: int) -> str:
    return json.dumps([{"user_class_name": name, "fixed_count": count} for name in CLASSES])


def _rows(rows: list[dict[str, object]]) -> None:
    """First token, between tokens and tokens/s are rows of Locust's own table, beside the requests."""
    types = {str(row["type"]) for row in rows}
    assert {"POST", "first token ms", "between tokens ms", "tokens/s"} <= types


def _each_kind(records: list[Record]) -> None:
    for one in records:
        if one.outcome != "ok":
            continue
        assert one.tokens == one.asked_tokens, "the echo engine says as much as is asked for"
        assert one.receipt["total_ms"] <= one.total_ms
        if one.stream:
            assert one.first_token_ms is not None
            assert sum(one.gaps_ms) + one.first_token_ms <= one.total_ms + 1
        if one.stream and one.kind != "openai":
            assert len(one.gaps_ms) == one.tokens - 1
    left = [one for one in records if one.outcome == "left"]
    assert left
    assert {one.kind for one in left} == {"impatient"}
    assert _grown(records), "chats grow"


def test_the_dashboards_figures_are_sent_where_an_address_is_given(stand: Stand, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        records = headless(
            stand, tmp_path, "StreamUser", "--statsd", address, users=4, enough=lambda found: len(found) > 8
        )
        listening.setblocking(False)
        lines: list[str] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                lines += listening.recv(65536).decode().splitlines()
    counted = sum(int(line.split(":")[1][:-2]) for line in lines if line.startswith("gw.locust_requests,"))
    assert counted == sum(one.outcome != "cut" for one in records) > 0
    assert "gw.locust_users:4|g" in lines
    assert any(line.startswith("gw.locust_first_token,name=stream_") for line in lines)


def test_the_same_seed_asks_the_same(stand: Stand, tmp_path: Path) -> None:
    def first_of_each(folder: str) -> list[tuple[str, int]]:
        (tmp_path / folder).mkdir()
        records = headless(
            stand, tmp_path / folder, "SeedUser", "--seed", "7", users=1, enough=lambda found: len(found) > 3
        )
        return [(one.model, one.asked_tokens) for one in records[:3]]

    assert first_of_each("a") == first_of_each("b")


def test_two_workers_share_the_users_and_their_counts_come_together(stand: Stand, tmp_path: Path) -> None:
    port = str(free_port())
    folder = str(tmp_path / "records")
    common = ["--records", folder, "--wait-s", "0.2", "SeedUser", "StreamUser"]
    workers = [
        subprocess.Popen(
            locust("--worker", "--master-port", port, *common),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    try:
        master = ["--master", "--master-bind-port", port, "--expect-workers", "2", "--headless"]
        master += ["--host", stand.url, "--users", "8", "--spawn-rate", "8", "--run-time", "4s"]
        finished(locust(*master, "--stop-timeout", "30", *common), tmp_path)
        assert [worker.wait(30) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    files = list((tmp_path / "records").glob("records-*.jsonl"))
    assert len(files) == 2, "each worker has written its own"
    assert all(file.stat().st_size > 0 for file in files)
    counts = locust_counts(tmp_path / "records")
    records = read(tmp_path / "records")
    assert counts["total"]["requests"] == sum(one.outcome != "cut" for one in records) > 0


def test_with_its_page_a_run_can_be_started_and_stopped(stand: Stand, tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        locust("--host", stand.url, "--web-host", "127.0.0.1", "--web-port", str(port), "--wait-s", "0.2"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "GATEWAY_API_KEY": "not-to-be-shown"},
    )
    page = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _answers(page), "Locust's page", 30)
        shown = httpx.get(page).text
        assert "wait_s" in shown
        assert "not-to-be-shown" not in shown
        httpx.post(f"{page}/swarm", data={"user_count": "6", "spawn_rate": "6", "host": stand.url})
        until(lambda: _requests(page) > 5, "requests on the page", 30)
        names = {(row["method"], row["name"]) for row in httpx.get(f"{page}/stats/requests").json()["stats"]}
        assert any(kind == "POST" for kind, _ in names)
        httpx.post(f"{page}/stop", timeout=30)
        until(lambda: httpx.get(f"{page}/stats/requests").json()["state"] == "stopped", "its end", 30)
        httpx.post(f"{page}/swarm", data={"user_count": "2", "spawn_rate": "2", "host": stand.url})
        until(lambda: httpx.get(f"{page}/stats/requests").json()["state"] == "running", "a second run", 30)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _answers(page: str) -> bool:
    try:
        return httpx.get(page, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def _requests(page: str) -> int:
    rows = httpx.get(f"{page}/stats/requests").json()["stats"]
    return int(next((row["num_requests"] for row in rows if row["name"] == "Aggregated"), 0))


def test_the_ramp_adds_users_step_by_step_and_ends(stand: Stand, tmp_path: Path) -> None:
    command = locust("--headless", "--host", stand.url, "--only-summary", file="saturation.py")
    command += ["--models", "qwen2", "--steps", "3", "--step-users", "4", "--step-s", "1.5", "--pace-s", "1"]
    command += ["--records", str(tmp_path / "records"), "--stop-timeout", "20"]
    said = finished(command, tmp_path)
    assert [f"updating to {users} users" in said for users in (4, 8, 12, 16)] == [True, True, True, False]
    assert {one.kind for one in read(tmp_path / "records")} == {"saturating"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "http://127.0.0.1:1"], "No gateway answers at http://127.0.0.1:1/v1/models"),
        (["--models", "nobody"], "The gateway has no model nobody; it has: qwen2, llama3"),
        (["--statsd", "host:port"], "--statsd takes HOST or HOST:PORT"),
    ],
)
def test_what_cannot_work_is_said_before_anything_runs(
    stand: Stand, tmp_path: Path, options: list[str], said: str
) -> None:
    command = locust("--headless", "--users", "1", "--run-time", "60s", "--host", stand.url, *options)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert said in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout
