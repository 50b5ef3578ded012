"""The card and its models in figures. Each has its source; what is assumed says so."""

from __future__ import annotations

from dataclasses import dataclass

GB = 10**9

CARD_BYTES = int(12.2 * GB)
"""RTX 4070 Super: 12,282 MiB, less a desktop's share (assumed 0.7 GB)."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One model as the simulator sees it."""

    name: str
    footprint_bytes: int
    load_s: float
    stop_s: float
    tokens_per_s: float  # one stream alone
    prefill_tokens_per_s: float


SPREAD = 0.15
"""Loads and stops vary evenly by this share around their mean (assumed)."""

SLOWDOWN_PER_STREAM = 0.02
"""Each further stream makes every stream this much slower: decoding is bound by memory bandwidth, so that a
batch is nearly free at this size (assumed)."""

MAX_CONCURRENT = 32
"""Llama 3.1 8B has room for about 36,000 tokens of KV cache on this card (computed from 131,072 bytes per
token): 32 streams of about 1,100 tokens."""

QWEN = Engine("qwen2-7b", int(11.5 * GB), load_s=31, stop_s=3, tokens_per_s=76, prefill_tokens_per_s=3000)
LLAMA = Engine("llama3.1-8b", int(11.5 * GB), load_s=32, stop_s=3, tokens_per_s=72, prefill_tokens_per_s=2800)

FLEET = (
    Engine("chat-8b", int(7.0 * GB), load_s=30, stop_s=3, tokens_per_s=72, prefill_tokens_per_s=2800),
    Engine("code-7b", int(6.5 * GB), load_s=28, stop_s=3, tokens_per_s=76, prefill_tokens_per_s=3000),
    Engine("chat-3b", int(4.0 * GB), load_s=18, stop_s=2, tokens_per_s=120, prefill_tokens_per_s=6000),
    Engine("small-1b", int(2.5 * GB), load_s=12, stop_s=2, tokens_per_s=200, prefill_tokens_per_s=12000),
    Engine("guard-1b", int(2.5 * GB), load_s=12, stop_s=2, tokens_per_s=200, prefill_tokens_per_s=12000),
)

SOURCES = {
    "Footprint 11.5 GB of 12.2 GB: one at a time": (
        "TGI gives all memory that is left to its KV cache; the weights alone are 5.55 and 5.70 GB (computed "
        "from the architectures), and two CUDA contexts leave less than nothing for a second engine"
    ),
    "Load 31 and 32 s, stop 3 s": (
        "assumed; together they make the 34 s that the LLMKube project measured for a whole swap (its pull "
        "request 1393). A plain vLLM reload is 30 to over 100 s (vLLM blog, 2025-10-26)"
    ),
    "76 and 72 tokens/s for one stream": (
        "assumed: about 70 % of what 504 GB/s allows for reading 4.5 and 4.65 GB per token; a 4070 Ti of the "
        "same bandwidth does 66 tokens/s with a 9B model in 4 bits (AlexsJones/llmfit, pull request 983)"
    ),
    "32 streams at once": "the KV cache of Llama 3.1 8B has room for 36,000 tokens (computed)",
    "Prefill 3,000 and 2,800 tokens/s": "assumed; it is under 5 % of a request here",
    "A batch of 32 decodes at 62 % of one stream's speed": "assumed",
    "Loads and stops vary by 15 % either way": "assumed",
    "The five smaller models of the last trace": "assumed, scaled by size",
}
