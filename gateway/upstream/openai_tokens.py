"""Tokens and counts out of one completion chunk: every engine writes them in its own way."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from gateway.schemas import Token


class Counts:
    """How many tokens there are by now, as the engine counts them; None where it does not say."""

    def __init__(self) -> None:
        self.prompt: int | None = None
        self.completion: int | None = None

    def read(self, chunk: Mapping[str, Any]) -> None:
        """OpenAI's ``usage`` where it is; llama.cpp has it only at the end, and ``timings`` all the time."""
        if usage := chunk.get("usage"):
            self.prompt = usage.get("prompt_tokens")
            self.completion = usage.get("completion_tokens")
        elif timings := chunk.get("timings"):
            self.prompt = timings["prompt_n"] + timings.get("cache_n", 0)
            self.completion = timings["predicted_n"]


def tokens_of(choice: Mapping[str, Any], top: int) -> list[Token]:
    """The tokens of one choice. Several that make up one piece are one Token, without an id.

    ``top`` is how many likeliest tokens were asked for at each place.
    """
    text = choice.get("text") or ""
    if not isinstance(text, str):
        raise TypeError("text of a choice is not a string")
    found = _listed(choice, top)
    if len(found) == 1:
        one = found[0]
        return [Token(text, one.id, one.logprob, special=False, top=one.top)]
    if found and "".join(one.text for one in found) == text:
        return found
    return [Token(text, None, None, special=False)] if text else []


def _listed(choice: Mapping[str, Any], top: int) -> list[Token]:
    logprobs = choice.get("logprobs") or {}
    ids = choice.get("token_ids") or []
    if content := logprobs.get("content"):  # llama.cpp writes them as in a chat
        return [of_chat(one, top) for one in content]
    texts, values = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
    return [
        Token(text or "", number, value, special=False)
        for text, value, number in zip_longest(texts, values, ids)
    ]


def of_chat(entry: Mapping[str, Any], top: int) -> Token:
    """A token as the logprobs of a chat have it, with at most ``top`` likeliest ones at its place."""
    likeliest = tuple(of_chat(one, 0) for one in entry["top_logprobs"][:top]) if top else None
    return Token(entry["token"], entry.get("id"), entry.get("logprob"), special=False, top=likeliest)
