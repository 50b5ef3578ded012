"""Facts to sentences: amounts, the line under an answer, what a waiting request sees, failures."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from gateway.chat.events import (
    Answer,
    ChatFailure,
    Model,
    NotAGateway,
    Refused,
    Silent,
    Unreachable,
    Waiting,
)
from gateway.chat.texts import Texts

SEPARATOR = " · "


def seconds(texts: Texts, amount_s: float) -> str:
    if amount_s >= 100:
        whole = round(amount_s)
        return texts.minutes.format(minutes=whole // 60, seconds=whole % 60)
    if amount_s >= 10:
        return texts.seconds.format(count=f"{amount_s:.0f}")
    return texts.seconds.format(count=f"{amount_s:.1f}" if amount_s >= 1 else f"{amount_s:.2f}")


def whole_seconds(texts: Texts, amount_s: float) -> str:
    """For what only counts down: no fractions, and never below one."""
    amount_s = max(1, round(amount_s))
    return seconds(texts, amount_s) if amount_s >= 100 else texts.seconds.format(count=amount_s)


def size(amount_bytes: int) -> str:
    return f"{amount_bytes / 1e9:.1f} GB" if amount_bytes >= 1e9 else f"{amount_bytes / 1e6:.0f} MB"


def receipt_line(texts: Texts, answer: Answer) -> str:
    """Model, tokens, speed, time to the first token, and what part of that was queue and load."""
    parts = [answer.model_id]
    if answer.completion_tokens is not None:
        parts.append(texts.tokens.format(count=answer.completion_tokens))
    if (rate := answer.tokens_per_s) is not None:
        parts.append(texts.rate.format(rate=f"{rate:.1f}"))
    if answer.first_token_s is not None:
        parts.append(texts.ttft.format(seconds=seconds(texts, answer.first_token_s)))
    for sentence, amount_ms in ((texts.queue, answer.queue_ms), (texts.load, answer.load_ms)):
        # Under 5 ms would read "0.00 s".
        if amount_ms >= 5:
            parts.append(sentence.format(seconds=seconds(texts, amount_ms / 1000)))
    if answer.finish_reason == "length":
        parts.append(texts.cut_by_length)
    return SEPARATOR.join(parts)


def waiting_line(texts: Texts, waiting: Waiting, passed_s: float = 0.0) -> str:
    """One line; ``passed_s`` after the news, so that the time left goes on counting between two of them."""
    sentence = {
        "queued": texts.waiting_queued,
        "draining": texts.waiting_draining,
        "loading": texts.waiting_loading,
        "ready": texts.waiting_ready,
    }[waiting.kind]
    phase = waiting.phase or "loading"
    line = sentence.format(model=waiting.model_id, phase=texts.phases.get(phase, phase))
    if waiting.kind == "loading" and waiting.progress is not None and phase != "ready":
        line += f" {waiting.progress * 100:.0f} %"
    parts = [f"⟳ {line}"]
    if waiting.kind == "queued" and waiting.position:
        parts.append(texts.waiting_position.format(position=waiting.position))
    if waiting.kind != "ready" and waiting.eta_s is not None:
        parts.append(texts.eta.format(seconds=whole_seconds(texts, waiting.eta_s - passed_s)))
    return SEPARATOR.join(parts)


def failure_lines(texts: Texts, failure: ChatFailure, *, begun: bool) -> list[str]:
    """What happened, then what to do. ``begun``: some of the answer had arrived."""
    match failure:
        case Unreachable():
            sentence = texts.unreachable.format(url=failure.url, reason=failure.reason)
            return [sentence, texts.unreachable_hint]
        case Silent():
            return [texts.timed_out.format(url=failure.url, seconds=seconds(texts, failure.silence_s))]
        case NotAGateway():
            sentence = texts.not_a_gateway.format(url=failure.url, status=failure.status)
            return [sentence, texts.not_a_gateway_hint]
        case Refused():
            return _refusal(texts, failure)
        case _:
            return [texts.lost_mid if begun else texts.lost_before]


def _refusal(texts: Texts, failure: Refused) -> list[str]:
    lines = [failure.message]
    if failure.request_id:
        lines[0] += f" [{texts.request_id.format(request_id=failure.request_id)}]"
    if failure.hint:
        lines.append(failure.hint)
    if failure.type == "unauthorized":
        lines.append(texts.unauthorized_hint)
    if failure.field == "messages":
        lines.append(texts.new_conversation_hint)
    if failure.retry_after_s is not None:
        lines.append(texts.retry_after.format(seconds=whole_seconds(texts, failure.retry_after_s)))
    return lines


def state_of(texts: Texts, model: Model) -> str:
    return texts.model_states.get(model.state, model.state)


def model_lines(texts: Texts, models: Iterable[Model], current: str | None) -> list[str]:
    """One line a model; the one that answers is marked."""
    lines = []
    for model in models:
        chosen = current in (model.id, *model.aliases) if current else model.default
        names = f"{model.id} ({', '.join(model.aliases)})" if model.aliases else model.id
        lines.append(f"{'*' if chosen else ' '} {SEPARATOR.join([names, *_model_facts(texts, model)])}")
    return lines or [texts.no_models]


def _model_facts(texts: Texts, model: Model) -> list[str]:
    facts = [state_of(texts, model)]
    if model.default:
        facts.append(texts.models_default)
    if model.memory_bytes:
        facts.append(texts.models_memory.format(size=size(model.memory_bytes)))
    if model.in_flight:
        facts.append(texts.models_in_flight.format(count=model.in_flight))
    if model.waiting:
        facts.append(texts.models_waiting.format(count=model.waiting))
    if model.last_load_s is not None:
        facts.append(texts.models_last_load.format(seconds=seconds(texts, model.last_load_s)))
    if model.reason:
        facts.append(model.reason)
    return facts


def did_you_mean(texts: Texts, word: str, known: Iterable[str]) -> str | None:
    """A sentence with the nearest known word, where there is one near enough."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return texts.did_you_mean.format(guess=near[0]) if near else None
