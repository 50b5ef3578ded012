"""How much memory a model's parts take, from what its ``config.json`` says. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_FLOAT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_WORKSPACE_BYTES = 100_000_000
"""Scratch memory of matrix kernels, whatever the model."""


class NotDescribed(ValueError):
    """A config.json that does not say what the arithmetic needs. The text says what is missing."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """Packed integers with one scale per group. ``symmetric``: no zero points are kept on the device."""

    bits: int
    group_size: int
    symmetric: bool


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder with grouped-query attention and a gated MLP: Qwen2, Llama, Mistral and their like."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_positions: int
    tied_embeddings: bool
    dtype_bytes: int
    quantization: Quantization | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Architecture:
        """Read a ``config.json``. Raises NotDescribed."""
        hidden, heads = _count(config, "hidden_size"), _count(config, "num_attention_heads")
        return cls(
            layers=_count(config, "num_hidden_layers"),
            hidden=hidden,
            intermediate=_count(config, "intermediate_size"),
            heads=heads,
            kv_heads=_count(config, "num_key_value_heads", heads),
            head_dim=_count(config, "head_dim", hidden // heads),
            vocabulary=_count(config, "vocab_size"),
            max_positions=_count(config, "max_position_embeddings"),
            tied_embeddings=config.get("tie_word_embeddings") is True,
            dtype_bytes=_FLOAT_BYTES.get(str(config.get("torch_dtype") or config.get("dtype")), 2),
            quantization=_quantization(config.get("quantization_config")),
        )

    @property
    def linear_parameters(self) -> int:
        """Weights of all matrices inside the layers: what a quantised checkpoint packs."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def plain_bytes(self) -> int:
        """What no quantisation touches: embeddings, output head, norms and biases."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)
        norms = (2 * self.layers + 1) * self.hidden
        return (embeddings + norms) * self.dtype_bytes

    @property
    def weights_bytes(self) -> int:
        """The weights on the device, computed. Headers of the files themselves say it exactly."""
        packing, linear = self.quantization, self.linear_parameters
        if packing is None:
            return linear * self.dtype_bytes + self.plain_bytes
        groups = linear // packing.group_size
        zeros = 0 if packing.symmetric else groups * packing.bits // 8
        return linear * packing.bits // 8 + groups * self.dtype_bytes + zeros + self.plain_bytes

    def kv_bytes_per_token(self, cache_bytes: int) -> int:
        """Keys and values of one token over all layers, ``cache_bytes`` for each number."""
        return 2 * self.layers * self.kv_heads * self.head_dim * cache_bytes

    def activation_bytes(self, prefill_tokens: int) -> int:
        """An estimate of the most that a prefill of so many tokens needs beside weights and cache.

        The gated MLP is the widest place: its two halves and their product, with the residual stream, the
        attention's inputs and outputs around it.
        """
        width = 3 * self.intermediate + 6 * self.hidden
        return prefill_tokens * width * self.dtype_bytes + _WORKSPACE_BYTES


def _count(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise NotDescribed(f"`{key}` is {value!r}; a whole number above 0 is needed")
    return value


def _quantization(found: object) -> Quantization | None:
    if found is None:
        return None
    if not isinstance(found, Mapping) or found.get("quant_method") not in ("gptq", "awq"):
        method = found.get("quant_method") if isinstance(found, Mapping) else found
        raise NotDescribed(f"quantisation {method!r} is not known here; there are gptq and awq")
    bits, group = found.get("bits", 4), found.get("group_size", 128)
    if bits not in (2, 3, 4, 8) or not isinstance(group, int):
        raise NotDescribed(f"quantisation with bits {bits!r} and group_size {group!r} is not known here")
    symmetric = found["quant_method"] == "gptq" and found.get("sym", True) is True
    # -1: one scale for a whole column, which is next to nothing.
    return Quantization(bits, group if group > 0 else 2**62, symmetric)
