"""Between TGI's words and llama.cpp's: the request's body, and steps out of its chunks. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gateway.engine import grammars
from gateway.engine.backend import Job, PromptToken, Step
from gateway.wire.pieces import spans_of
from gateway.wire.tgi import FinishReason, token_body

_REASONS: dict[str, FinishReason] = {"eos": "eos_token", "word": "stop_sequence", "limit": "length"}
# TGI's order: penalties, temperature, then the three cuts.
_SAMPLERS = ["penalties", "temperature", "top_k", "top_p", "typ_p"]

# A small model may write white space without an end wherever it is allowed.
_ON_ONE_LINE = {"x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}


def completion_body(job: Job, context_tokens: int) -> dict[str, Any]:
    """The body for ``/completion``. Every default is written out: llama.cpp's are not TGI's."""
    p = job.parameters
    body: dict[str, Any] = {
        "prompt": [token.id for token in job.tokens],
        "stream": True,
        "n_predict": job.max_new_tokens,
        "stop": [stop for stop in p.stop if stop],
        "samplers": _SAMPLERS,
        "min_p": 0,  # llama.cpp would cut at 0.05
        "repeat_penalty": 1.0 if p.repetition_penalty is None else p.repetition_penalty,
        "frequency_penalty": p.frequency_penalty or 0.0,
        "repeat_last_n": context_tokens,  # the whole context, as in TGI; -1 is refused
        "n_probs": max(1, p.top_n_tokens or 0),
        "return_tokens": True,
        "cache_prompt": True,
        **_sampling(job),
    }
    if job.schema is not None:
        body["json_schema"] = {**job.schema, **_ON_ONE_LINE}
    elif p.grammar is not None:
        body.update(grammars.for_llama(p.grammar))
    return body


def _sampling(job: Job) -> dict[str, Any]:
    if job.seed is None:
        return {"temperature": 0, "top_k": 1, "top_p": 1.0, "typical_p": 1.0}
    p = job.parameters
    return {
        "temperature": 1.0 if p.temperature is None else p.temperature,
        "top_k": p.top_k or 0,  # llama.cpp would take 40
        "top_p": 1.0 if p.top_p is None else p.top_p,  # and 0.95
        "typical_p": 1.0 if p.typical_p is None else p.typical_p,
        "seed": job.seed % 0xFFFF_FFFF,  # 32 bits, of which the highest value means "random"
    }


class StepReader:
    """Steps out of the chunks of one completion.

    TGI's last event carries a token, while llama.cpp ends with a chunk that has none. So a chunk that may be
    the last waits for the next one; chunks with text before the limit never do.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._held: Step | None = None
        self._index = 0
        self.ended = False

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[Step]:
        if chunk["stop"]:
            self.ended = True
            yield self._last(chunk)
            return
        if self._held is not None:
            yield self._held
        step = self._step(chunk)
        may_be_last = step.index >= self._job.max_new_tokens or not step.text or "timings" in chunk
        self._held = step if may_be_last else None
        if not may_be_last:
            yield step

    def _step(self, chunk: Mapping[str, Any]) -> Step:
        # Pieces of a character that spans tokens are held back by llama.cpp, and their ids never come. Its
        # own count goes on, so the index stays the number of tokens.
        self._index = max(self._index + 1, int(chunk["tokens_predicted"]))
        probabilities = chunk.get("completion_probabilities") or [{}]
        return Step(
            index=self._index,
            id=chunk["tokens"][-1] if chunk["tokens"] else probabilities[-1].get("id", 0),
            text=chunk["content"],
            logprob=probabilities[-1].get("logprob"),
            top=self._top(probabilities[-1]),
        )

    def _top(self, probability: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        wanted = self._job.parameters.top_n_tokens
        if not wanted:
            return None
        candidates = probability.get("top_logprobs", [])[:wanted]
        return [token_body(one["id"], one["token"], one["logprob"], special=False) for one in candidates]

    def _last(self, chunk: Mapping[str, Any]) -> Step:
        # TGI leaves the stop string in the text; llama.cpp cuts it off and names it.
        tail = chunk["content"] + chunk["stopping_word"]
        count = int(chunk["tokens_predicted"])
        reason = _REASONS[chunk["stop_type"]]
        step = self._held or self._synthesised(count)
        if reason == "eos_token":
            # An end token is listed like any other; as the last one that was allowed it counts as the length.
            ends_at_limit = step.index >= self._job.max_new_tokens
            return replace(step, special=True, finish="length" if ends_at_limit else reason)
        return replace(step, text=step.text + tail, finish=reason)

    def _synthesised(self, count: int) -> Step:
        """The last token when its chunk was held back for good, as half a character is. Unknown id: 0."""
        return Step(max(self._index + 1, count), 0, "", None, top=self._top({}))


def prompt_tokens(text: str, tokens: Sequence[Mapping[str, Any]]) -> list[PromptToken]:
    """TGI's tokens from llama.cpp's pieces."""
    return [PromptToken(*span) for span in spans_of(text, tokens)]
