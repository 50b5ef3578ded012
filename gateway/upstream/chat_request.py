"""A conversation as engines' chat routes get it, in OpenAI's words: what all of them have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.parameters import samples
from gateway.schemas import ChatTurn, Conversation, Tool, ToolCall


@dataclass(frozen=True, slots=True)
class Chat:
    """A request for a chat route, and what of it is done on this side."""

    conversation: Conversation
    parameters: Mapping[str, Any]
    own_stops: tuple[str, ...]

    @classmethod
    def of(cls, conversation: Conversation, parameters: Mapping[str, object]) -> Chat:
        given = {name: value for name, value in parameters.items() if value is not None}
        stop = given.pop("stop", None)
        own = tuple(str(one) for one in stop) if isinstance(stop, list | tuple) else ()
        return cls(conversation, given, own)

    @property
    def seed(self) -> int | None:
        """What to report: a seed is said only when it was drawn with."""
        seed = self.parameters.get("seed")
        return seed if isinstance(seed, int) and samples(self.parameters) else None

    @property
    def top(self) -> int:
        return int(self.parameters.get("top_n_tokens") or 0)

    @property
    def offers_tools(self) -> bool:
        return bool(self.conversation.tools) and self.conversation.mode != "none"

    def tools(self) -> dict[str, object]:
        """The fields that offer tools; none where there are none to offer."""
        if not self.offers_tools:
            return {}
        said = self.conversation
        choice = {"type": "function", "function": {"name": said.only}} if said.only else said.mode
        return {"tools": [tool_body(tool) for tool in said.tools], "tool_choice": choice}


def streamed() -> dict[str, object]:
    """The fields of every request: answers are always streamed."""
    return {"stream": True, "stream_options": {"include_usage": True}}


def message_body(turn: ChatTurn) -> dict[str, object]:
    """A turn as OpenAI has it. A content is always there: templates print what is null."""
    body: dict[str, object] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        body["tool_calls"] = [call_body(call) for call in turn.tool_calls]
    if turn.tool_call_id is not None:
        body["tool_call_id"] = turn.tool_call_id
    return body


def call_body(call: ToolCall) -> dict[str, object]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def tool_body(tool: Tool) -> dict[str, object]:
    said = {} if tool.description is None else {"description": tool.description}
    return {"type": "function", "function": {"name": tool.name, **said, "parameters": dict(tool.parameters)}}
