"""The monitoring file and the main file together: what containers answered arrives in the database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from engine_room import Daemon, Project, build, build_monitoring
from harness import REPOSITORY, until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

MONITORING = "monitoring/docker-compose.monitor.yml"


def test_the_sidecars_image_reads_the_card_that_it_is_given(daemon: Daemon) -> None:
    build(daemon, REPOSITORY, "gpu-sidecar:lane", "--target=gpu-sidecar")
    rights = ("--read-only", "--cap-drop=ALL")
    said = daemon.docker(
        "run", "--rm", "--gpus=all", *rights, "-e", "SIDECAR_HOST=box", "gpu-sidecar:lane", "--once"
    )
    (total,) = [line for line in said.splitlines() if "gpu_memory_total_bytes" in line]
    assert "host=box" in total
    assert f":{12_282 << 20}|g" in total


def stored(database: str, query: str) -> float:
    """The first figure of an answer; 0 while there is none."""
    answer = httpx.get(f"{database}/query", params={"db": "gateway", "q": query}).json()["results"][0]
    return float(answer["series"][0]["values"][0][1]) if "series" in answer else 0.0


def test_what_was_answered_arrives(daemon: Daemon, project: Callable[..., Project], tmp_path: Path) -> None:
    build_monitoring(daemon, tmp_path)
    # Grafana cannot be had without its image; the pipeline lane asks every question that its dashboards ask.
    watch = project("watch", MONITORING, services=("influxdb", "telegraf"))
    watched = project("watched", "docker-compose.yml", "docker-compose.monitoring.yml")
    headers = {"authorization": f"Bearer {watched.key()}"}
    asked = {"inputs": "one two three", "scenario": "raw", "parameters": {"max_new_tokens": 8}}
    with httpx.Client(base_url=watched.url, headers=headers, timeout=90) as client:
        for model in ("qwen2", "llama3", "llama3"):
            assert client.post("/v1/generate", json={**asked, "model_id": model}).status_code == 200
    database = f"http://127.0.0.1:{watch.port + 1}"
    answered = "SELECT sum(value) FROM gw_requests WHERE status = '2xx'"
    until(lambda: stored(database, answered) == 3, "three answers in the database", 30)
    switches = "SELECT sum(value) FROM gw_switches"
    until(lambda: stored(database, switches) == 1, "one switch in the database", 30)
