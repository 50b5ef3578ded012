"""The conversation as a value: what has been said, and what the next request is made of. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gateway.chat.texts import Texts

GENERAL: Final = "general"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One message and its answer. Not ``complete``: it was stopped, or the connection was lost."""

    prompt: str
    answer: str
    model: str
    scenario: str
    complete: bool


@dataclass(frozen=True, slots=True)
class Session:
    """Everything a conversation consists of. ``model`` None is the gateway's default."""

    model: str | None = None
    scenario: str = GENERAL
    system: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    exchanges: tuple[Exchange, ...] = ()
    last_prompt: str | None = None

    def body(self, prompt: str) -> dict[str, Any]:
        """The request for ``prompt``: the conversation so far, or in another scenario ``prompt`` alone."""
        body: dict[str, Any] = {"scenario": self.scenario}
        if self.model:
            body["model_id"] = self.model
        if self.params:
            body["parameters"] = dict(self.params)
        if self.scenario == GENERAL:
            body["messages"] = self._messages(prompt)
        else:
            body["inputs"] = prompt
        return body

    def asked(self, prompt: str) -> Session:
        return replace(self, last_prompt=prompt)

    def answered(self, prompt: str, answer: str, *, model: str, complete: bool) -> Session:
        """With the exchange added; one of which nothing arrived leaves no trace but ``last_prompt``."""
        if not answer and not complete:
            return self
        exchange = Exchange(prompt, answer, model, self.scenario, complete)
        return replace(self, exchanges=(*self.exchanges, exchange))

    def rewound(self) -> Session:
        """Ready to ask ``last_prompt`` again: without its exchange, if it left one."""
        if self.exchanges and self.exchanges[-1].prompt == self.last_prompt:
            return replace(self, exchanges=self.exchanges[:-1])
        return self

    def cleared(self) -> Session:
        return replace(self, exchanges=(), last_prompt=None)

    def _messages(self, prompt: str) -> list[dict[str, str]]:
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for exchange in self.exchanges:
            if exchange.answer:
                messages.append({"role": "user", "content": exchange.prompt})
                messages.append({"role": "assistant", "content": exchange.answer})
        return [*messages, {"role": "user", "content": prompt}]


def as_json(session: Session) -> str:
    """The conversation for programs."""
    exchanges = [
        {
            "prompt": exchange.prompt,
            "answer": exchange.answer,
            "model_id": exchange.model,
            "scenario": exchange.scenario,
            "complete": exchange.complete,
        }
        for exchange in session.exchanges
    ]
    whole = {"system": session.system, "parameters": dict(session.params), "exchanges": exchanges}
    return json.dumps(whole, ensure_ascii=False, indent=2) + "\n"


def as_markdown(session: Session, texts: Texts) -> str:
    """The conversation for people."""
    blocks = [f"# {texts.export_title}"]
    if session.system:
        blocks += [f"## {texts.export_system}", session.system]
    for exchange in session.exchanges:
        notes = [] if exchange.scenario == GENERAL else [exchange.scenario]
        notes += [] if exchange.complete else [texts.export_partial]
        heading = f"{exchange.model} ({', '.join(notes)})" if notes else exchange.model
        blocks += [f"## {texts.export_you}", exchange.prompt, f"## {heading}", exchange.answer.strip()]
    return "\n\n".join(blocks) + "\n"
