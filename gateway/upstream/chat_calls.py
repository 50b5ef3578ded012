"""Tool calls out of the deltas of a chat stream, whatever the engine makes of ids and indexes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.schemas import Conversation, Token, ToolCall, ToolCallDelta


@dataclass(slots=True)
class _Call:
    """A call as it grows. ``theirs`` is the id that the engine gave it."""

    index: int
    id: str
    name: str
    theirs: str
    arguments: list[str] = field(default_factory=list)

    @property
    def whole(self) -> ToolCall:
        return ToolCall(self.id, self.name, "".join(self.arguments))


class Calls:
    """The tool calls of one answer.

    Engines send arguments as JSON or as an object, leave ids empty, use the same one for every call, repeat
    it in every piece, or give every call the index 0. Here each call has its own index, from 0 on, and an id
    of its own that is in no call of the conversation so far.
    """

    def __init__(self, conversation: Conversation, *, keeps_ids: bool) -> None:
        self._keeps_ids = keeps_ids
        self._one_only = conversation.parallel is False
        self._used = {call.id for turn in conversation.turns for call in turn.tool_calls}
        self._open: dict[int, _Call] = {}
        self._calls: list[_Call] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    @property
    def whole(self) -> tuple[ToolCall, ...]:
        return tuple(call.whole for call in self._calls)

    @property
    def complete(self) -> bool:
        """Whether every call has arguments that can be read."""
        return all(_is_json(call.arguments) for call in self.whole)

    def read(self, pieces: object) -> Iterator[Token]:
        """What of ``tool_calls`` of a delta is news. Raises TypeError for what it is not."""
        for position, piece in enumerate(listed(pieces)):
            if delta := self._piece(piece, position):
                yield of_call(delta)

    def finish(self) -> Iterator[Token]:
        """What is left to say at the end: a call without arguments gets an empty object."""
        for call in self._calls:
            if not "".join(call.arguments).strip():
                call.arguments = ["{}"]
                yield of_call(ToolCallDelta(call.index, "{}"))

    def _piece(self, piece: Mapping[str, Any], position: int) -> ToolCallDelta | None:
        function = piece.get("function") or {}
        name, theirs = str(function.get("name") or ""), str(piece.get("id") or "")
        arguments = text_of_arguments(function.get("arguments"))
        at = piece.get("index")
        at = at if isinstance(at, int) else position
        call = self._open.get(at)
        if call is None or (name and theirs != call.theirs):
            return self.begin(at, name, theirs, arguments)
        if call not in self._calls or not arguments:
            return None
        call.arguments.append(arguments)
        return ToolCallDelta(call.index, arguments)

    def begin(self, at: int, name: str, theirs: str, arguments: str) -> ToolCallDelta | None:
        """A new call, which the engine has at index ``at``; None where one too many was made."""
        call = _Call(len(self._calls), self._id(theirs), name, theirs, [arguments])
        self._open[at] = call
        if self._one_only and self._calls:
            return None
        self._calls.append(call)
        return ToolCallDelta(call.index, arguments, call.id, name)

    def _id(self, theirs: str) -> str:
        mine = theirs if self._keeps_ids and theirs and theirs not in self._used else ""
        mine = mine or f"call_{secrets.token_hex(12)}"
        self._used.add(mine)
        return mine


def of_call(delta: ToolCallDelta) -> Token:
    return Token("", None, None, special=False, call=delta)


def listed(pieces: object) -> list[Mapping[str, Any]]:
    """The pieces of a delta. Some versions of TGI send a single one without a list around it."""
    found: list[Any] = pieces if isinstance(pieces, list) else [pieces]
    if not all(isinstance(one, dict) for one in found):
        raise TypeError("tool_calls are no objects")
    return found


def text_of_arguments(arguments: object) -> str:
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
