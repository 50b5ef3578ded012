"""Where the figures of a plan come from: a model's folder, published facts, or the registry."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.config import ModelSpec
from gateway.planning.architecture import Architecture, NotDescribed

_MAX_HEADER_BYTES: Final = 100_000_000
_NOT_ON_THE_DEVICE: Final = (".g_idx", ".qzeros")
"""Of symmetric GPTQ, what Marlin's kernels need no more once the weights are repacked."""

_GPTQ: Final = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}
PUBLISHED: Final[Mapping[str, Mapping[str, Any]]] = {
    "qwen2-7b-instruct-gptq-int4": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "quantization_config": _GPTQ,
    },
    "meta-llama-3.1-8b-instruct-gptq-int4": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "quantization_config": _GPTQ,
    },
}
"""What the config.json of these models says, so that a plan can be made before the download. By name."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model's shape, how much its weights are on the device, and where both are from."""

    architecture: Architecture
    weights_bytes: int
    origin: str


def source_of(spec: ModelSpec, folder: Path) -> Source | None:
    """What is known of a model; None when there is neither a folder of it nor a published description.

    Raises NotDescribed when there is a folder whose files cannot be used.
    """
    for name in (spec.id, spec.name):
        if name and (folder / name / "config.json").is_file():
            return _from_folder(folder / name)
    published = PUBLISHED.get((spec.name or spec.id).lower())
    if published is None:
        return None
    architecture = Architecture.of(published)
    return Source(architecture, architecture.weights_bytes, "its published config, not downloaded yet")


def _from_folder(folder: Path) -> Source:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise NotDescribed("it is not an object")
        architecture = Architecture.of(config)
    except (OSError, ValueError) as error:
        raise NotDescribed(f"{folder / 'config.json'}: {error}") from error
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return Source(architecture, architecture.weights_bytes, f"{folder / 'config.json'}, no weights there")
    dropped = architecture.quantization is not None and architecture.quantization.symmetric
    sizes = [size for path in files for name, size in _tensors(path) if not (dropped and _repacked(name))]
    return Source(architecture, sum(sizes), f"the headers of {len(files)} files in {folder}")


def _repacked(tensor: str) -> bool:
    return tensor.endswith(_NOT_ON_THE_DEVICE)


def _tensors(path: Path) -> Iterator[tuple[str, int]]:
    """Name and bytes of each tensor, from the header alone. Raises NotDescribed."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER_BYTES:
                raise NotDescribed(f"{path}: its header would have {length} bytes")
            header = json.loads(file.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                begin, end = tensor["data_offsets"]
                yield name, end - begin
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, NotDescribed):
            raise
        hint = "it may be cut short, or be a pointer file of git-lfs: fetch it again"
        raise NotDescribed(f"{path} is no safetensors file ({error}); {hint}") from error
