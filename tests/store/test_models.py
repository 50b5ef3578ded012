"""Weights: fetched whole or with a reason, gone on with after a cut, checked, listed and deleted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.cli import main

WANTED = {"config.json", "tokenizer.json", "model.safetensors"}


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def at(tmp_path: Path) -> list[str]:
    """The options that make a command work on a registry and folders of the test's own."""
    registry = tmp_path / "models.yaml"
    registry.write_text(
        "models:\n"
        "- {id: qwen2, family: qwen2, url: 'http://127.0.0.1:9',\n"
        "   weights: {hub: org/repo, modelscope: org/repo}}\n"
        "- {id: bare, family: qwen2, url: 'http://127.0.0.1:9'}\n"
        "- {id: lost, family: qwen2, url: 'http://127.0.0.1:9', weights: {hub: org/none}}\n"
    )
    return ["models", "--config", str(registry), "--models-dir", str(tmp_path / "models")]


def files_of(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "models/qwen2").iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize("source", ["hub", "modelscope"])
def test_weights_are_fetched_checked_and_not_fetched_again(
    shelf: Any, at: list[str], tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*at, "pull", "qwen2", "--from", source]) == 0
    assert "complete, checksums right" in capsys.readouterr().out
    assert files_of(tmp_path) == WANTED
    fetched = len(shelf.fetched("model.safetensors"))
    assert main([*at, "pull", "qwen2", "--from", source]) == 0
    assert len(shelf.fetched("model.safetensors")) == fetched
    assert main([*at, "verify", "qwen2"]) == 0
    assert main([*at, "list"]) == 0
    listed = capsys.readouterr().out
    assert f"{source}:org/repo" in listed
    assert "bare                 no weights" in listed


@pytest.mark.parametrize("source", ["hub", "modelscope"])
def test_a_cut_download_goes_on_where_it_stopped(
    shelf: Any, at: list[str], tmp_path: Path, source: str
) -> None:
    shelf.cuts = 1
    assert main([*at, "pull", "qwen2", "--from", source]) == 0
    assert files_of(tmp_path) == WANTED
    first, *rest = shelf.fetched("model.safetensors")
    assert first is None
    assert any(span and span != "bytes=0-" for span in rest)


@pytest.mark.parametrize("source", ["hub", "modelscope"])
def test_what_comes_with_a_wrong_checksum_is_not_kept(
    shelf: Any, at: list[str], tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf.lies.add("model.safetensors")
    assert main([*at, "pull", "qwen2", "--from", source]) == 1
    assert "model.safetensors: has other content" in capsys.readouterr().err
    assert "model.safetensors" not in files_of(tmp_path)
    shelf.lies.clear()
    assert main([*at, "pull", "qwen2", "--from", source]) == 0
    assert files_of(tmp_path) == WANTED


def test_a_gated_model_says_how_to_get_in(
    shelf: Any, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shelf.gated = True
    assert main([*at, "pull", "qwen2"]) == 1
    said = capsys.readouterr().err
    assert "HF_TOKEN" in said
    assert "licence" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["pull", "lost"], "knows no org/none", id="unknown repository"),
        pytest.param(["pull", "bare"], "does not say where bare comes from", id="no source"),
        pytest.param(["pull", "nobody"], "There are: qwen2, bare, lost", id="unknown model"),
        pytest.param(["verify", "bare"], "nothing to compare", id="nothing there"),
        pytest.param(["rm", "bare", "--yes"], "There is no", id="nothing to delete"),
    ],
)
@pytest.mark.usefixtures("shelf")
def test_what_cannot_be_done_is_said_in_a_sentence(
    at: list[str], arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*at, *arguments]) == 1
    assert says in capsys.readouterr().err


@pytest.mark.usefixtures("shelf")
def test_a_disk_without_room_is_noticed_before_anything_is_fetched(
    at: list[str], shelf: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2 * 10**9, 10**9, 10**9 + 10**6))
    assert main([*at, "pull", "qwen2"]) == 1
    assert "Make room" in capsys.readouterr().err
    assert not shelf.fetched("model.safetensors")


@pytest.mark.parametrize("source", ["hub", "modelscope"])
def test_a_source_that_cannot_be_reached_is_named(
    at: list[str], monkeypatch: pytest.MonkeyPatch, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    assert main([*at, "pull", "qwen2", "--from", source]) == 1
    assert "cannot be fetched from http://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.usefixtures("shelf")
def test_damage_is_found_and_mended(
    at: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*at, "pull", "qwen2"]) == 0
    path = tmp_path / "models/qwen2/model.safetensors"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a failing disk does it
    assert main([*at, "verify", "qwen2"]) == 1
    assert "model.safetensors: has other content" in capsys.readouterr().out
    assert main([*at, "pull", "qwen2"]) == 0
    assert main([*at, "verify", "qwen2"]) == 0


def test_a_folder_that_the_hubs_own_tool_made_works_as_well(
    shelf: Any, at: list[str], tmp_path: Path
) -> None:
    from huggingface_hub import snapshot_download

    folder = tmp_path / "models/qwen2"
    wanted = ["*.json", "*.safetensors"]
    snapshot_download("org/repo", local_dir=folder, allow_patterns=wanted, endpoint=shelf.url)
    assert main([*at, "verify", "qwen2"]) == 0
    (folder / "config.json").write_text("{}")
    assert main([*at, "verify", "qwen2"]) == 1


@pytest.mark.usefixtures("shelf")
def test_weights_are_deleted_once_somebody_agrees(
    at: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*at, "pull", "qwen2"]) == 0
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert main([*at, "rm", "qwen2"]) == 1
    assert (tmp_path / "models/qwen2").is_dir()
    assert main([*at, "rm", "qwen2", "--yes"]) == 0
    assert not (tmp_path / "models/qwen2").exists()
