"""Counts outlive the engine that had them: ``--final-metrics``."""

from __future__ import annotations

import signal
from pathlib import Path

from engine_process import launch


def test_the_last_counts_of_every_process_are_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    for answers in (2, 1):
        engine = launch("--backend", "echo", "--final-metrics", str(path)).wait_ready()
        try:
            for _ in range(answers):
                engine.generate("one two three", max_new_tokens=4)
            shown = engine.get("/metrics").text
            assert engine.end(signal.SIGTERM) == 0
            assert path.read_text(encoding="utf-8").endswith(f"# process {engine.process.pid}\n{shown}")
        finally:
            engine.finish()
    counts = [
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("tgi_request_success ")
    ]
    assert counts == ["tgi_request_success 2", "tgi_request_success 1"]


def test_an_engine_that_is_told_to_end_while_it_loads_has_counted_nothing(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    engine = launch("--backend", "echo", "--load-s", "60", "--final-metrics", str(path))
    try:
        engine.wait_for_line("Starting shard")
        engine.end(signal.SIGTERM)
        assert "tgi_request_success" not in path.read_text(encoding="utf-8").replace(
            "# TYPE tgi_request_success", ""
        )
    finally:
        engine.finish()
