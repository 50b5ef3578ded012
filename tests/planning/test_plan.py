"""What fits on a card: the arithmetic against published figures, and against real file headers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.config import ModelSpec
from gateway.planning.architecture import Architecture, NotDescribed
from gateway.planning.fit import CardPlan, Need, plan_card
from gateway.planning.sources import PUBLISHED, source_of

QWEN, LLAMA = (Architecture.of(config) for config in PUBLISHED.values())
CARD_12_GB = 12_282 * 2**20  # what an RTX 4070 Super reports


def need(name: str, shape: Architecture, largest: int = 8000) -> Need:
    return Need(
        model=name,
        weights_bytes=shape.weights_bytes,
        activation_bytes=shape.activation_bytes(4096),
        kv_bytes_per_token=shape.kv_bytes_per_token(2),
        max_positions=shape.max_positions,
        largest_request_tokens=largest,
    )


def both(card_bytes: int) -> CardPlan:
    return plan_card(card_bytes, [need("qwen2", QWEN), need("llama3", LLAMA)])


@pytest.mark.parametrize(
    ("shape", "weights_gb", "kv_bytes"),
    [pytest.param(QWEN, 5.55, 57_344, id="qwen2"), pytest.param(LLAMA, 5.70, 131_072, id="llama3")],
)
def test_weights_and_cache_per_token_of_the_two_models(
    shape: Architecture, weights_gb: float, kv_bytes: int
) -> None:
    assert shape.weights_bytes / 1e9 == pytest.approx(weights_gb, abs=0.01)
    assert shape.kv_bytes_per_token(2) == kv_bytes
    assert shape.kv_bytes_per_token(1) == kv_bytes // 2
    assert 0.65e9 <= shape.activation_bytes(4096) <= 0.75e9


def test_on_12_gb_each_model_fits_alone_and_both_together_do_not() -> None:
    plan = both(CARD_12_GB)
    qwen, llama = plan.alone
    assert qwen.cache_bytes / 1e9 == pytest.approx(4.8, abs=0.05)
    assert qwen.cache_tokens == pytest.approx(80_000, rel=0.06)
    assert llama.cache_bytes / 1e9 == pytest.approx(4.7, abs=0.05)
    assert llama.cache_tokens == pytest.approx(36_000, rel=0.02)
    assert qwen.fits
    assert llama.fits
    assert not plan.co_resident
    before_prefill = plan.spare_bytes + QWEN.activation_bytes(4096) + LLAMA.activation_bytes(4096)
    assert before_prefill / 1e9 == pytest.approx(-0.7, abs=0.05)


@pytest.mark.parametrize("card_gib", [24, 80])
def test_on_larger_cards_both_are_resident_and_each_fraction_covers_those_before(card_gib: int) -> None:
    plan = both(card_gib * 2**30)
    assert plan.co_resident
    first, last = plan.together
    assert first.memory_fraction < last.memory_fraction == 1.0
    usable = card_gib * 2**30 * 0.9
    assert first.footprint_bytes <= first.memory_fraction * usable
    assert first.footprint_bytes + last.footprint_bytes <= usable
    assert first.cache_bytes == last.cache_bytes > 0


def test_a_card_that_leaves_less_cache_than_the_largest_request_does_not_fit() -> None:
    (place,) = plan_card(8 * 2**30, [need("llama3", LLAMA, largest=100_000)]).alone
    assert 0 < place.cache_tokens < 100_000
    assert not place.fits


def test_unquantised_and_asymmetric_models_take_what_their_formats_say() -> None:
    plain = {**PUBLISHED["qwen2-7b-instruct-gptq-int4"], "quantization_config": None}
    assert Architecture.of(plain).weights_bytes / 1e9 == pytest.approx(15.2, abs=0.1)  # 7.6 billion, 2 bytes
    packed: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": False}
    zeros = Architecture.of({**plain, "quantization_config": packed}).weights_bytes - QWEN.weights_bytes
    assert zeros == QWEN.linear_parameters // 128 // 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param({"hidden_size": None}, "hidden_size", id="missing"),
        pytest.param({"vocab_size": "many"}, "vocab_size", id="not a number"),
        pytest.param({"quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes", id="format"),
    ],
)
def test_a_config_that_does_not_say_enough_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(NotDescribed, match=named):
        Architecture.of({**PUBLISHED["qwen2-7b-instruct-gptq-int4"], **change})


# ---------------------------------------------------------------- files


def safetensors(path: Path, tensors: dict[str, int]) -> None:
    header, at = {}, 0
    for name, size in tensors.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


def folder_of(tmp_path: Path) -> Path:
    folder = tmp_path / "qwen2"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(PUBLISHED["qwen2-7b-instruct-gptq-int4"]))
    return folder


SPEC = ModelSpec(id="qwen2", family="qwen2", url="http://127.0.0.1:1")


def test_headers_of_the_files_say_what_is_on_the_device(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    safetensors(folder / "model-1.safetensors", {"a.qweight": 1000, "a.g_idx": 64, "a.qzeros": 32})
    safetensors(folder / "model-2.safetensors", {"lm_head.weight": 500})
    source = source_of(SPEC, tmp_path)
    assert source is not None
    assert source.weights_bytes == 1500
    assert "2 files" in source.origin


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", id="pointer"),
        pytest.param(struct.pack("<Q", 50) + b'{"a": ', id="cut short"),
        pytest.param(struct.pack("<Q", 10) + b'{"a":  1} ', id="no offsets"),
    ],
)
def test_a_damaged_weights_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = folder_of(tmp_path) / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(NotDescribed, match=r"model\.safetensors"):
        source_of(SPEC, tmp_path)


# ---------------------------------------------------------------- the command


def test_the_command_answers_for_each_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "models/models.yaml", "--gpu", "12282MiB", "--gpu", "24GiB"]) == 0
    text = capsys.readouterr().out
    assert "all together: no" in text
    assert "all together: yes" in text
    assert "--cuda-memory-fraction 1.00" in text


def test_the_command_answers_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "models/models.yaml", "--gpu", "80GiB", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [model["id"] for model in answer["models"]] == ["qwen2", "llama3"]
    assert answer["cards"][0]["co_resident"] is True


def test_models_of_unknown_shape_are_judged_by_what_is_declared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "models/local.yaml", "--gpu", "1GiB"]) == 0
    text = capsys.readouterr().out
    assert "smollm2 alone: fits, as declared" in text
    assert "smollm2 and smollm2-q8 together: no" in text


@pytest.mark.parametrize("option", [["--gpu", "twelve"], ["--gpu", "0"], ["--prefill-tokens", "0"]])
def test_a_size_that_is_none_is_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--config", "models/models.yaml", *option])
    assert "is no" in capsys.readouterr().err
