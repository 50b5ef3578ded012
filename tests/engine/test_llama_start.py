"""How the llama.cpp backend refuses to start: one sentence each. Needs no weights."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_process import Engine

StartEngine = Callable[..., Engine]


def test_a_missing_libgomp_is_one_sentence_with_the_cure(start_engine: StartEngine, tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.touch()
    message = "libgomp.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "xllamacpp.py").write_text(f"raise ImportError({message!r})\n")
    engine = start_engine("--backend", "llama", "--model", str(model), env={"PYTHONPATH": str(tmp_path)})
    line = engine.wait_for_line("apt-get install").string
    assert "needs the system library libgomp" in line
    assert "apt-get install -y --no-install-recommends libgomp1" in line
    assert engine.process.wait(20) == 1
    assert not any("Traceback" in line for line in engine.lines)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("nowhere.gguf", "no model file at nowhere.gguf; a model is one of: smollm2-q4_1"),
        ("hub:onlyrepo", "hub:onlyrepo is not hub:REPO:FILE"),
    ],
)
def test_a_model_that_is_not_there_is_one_sentence(
    start_engine: StartEngine, model: str, sentence: str
) -> None:
    engine = start_engine("--backend", "llama", "--model", model)
    engine.wait_for_line("ERROR.*" + sentence)
    assert engine.process.wait(20) == 1


def test_sigterm_during_a_download_ends_at_once(start_engine: StartEngine, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = {"HF_ENDPOINT": endpoint, "XDG_CACHE_HOME": str(tmp_path)}
        engine = start_engine("--backend", "llama", "--model", "hub:org/repo:m.gguf", env=env)
        connection, _ = silent.accept()  # the download has begun and will never get an answer
        with connection:
            assert engine.end(signal.SIGTERM, timeout_s=5) == 143


def test_a_file_that_is_no_model_is_one_sentence(start_engine: StartEngine, tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF but nothing else")
    engine = start_engine("--backend", "llama", "--model", str(model))
    engine.wait_for_line("llama.cpp could not load the model")
    assert engine.process.wait(20) == 1
