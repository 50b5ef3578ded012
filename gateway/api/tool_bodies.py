"""What is the same about tools in every dialect: their rules, and the conversation that they are part of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.errors import InvalidRequest
from gateway.schemas import ChatTurn, Conversation, Message, Role, Tool, ToolMode

MAX_TOOLS: Final = 128
TOOL_NAME: Final = r"^[A-Za-z0-9_.-]{1,128}$"


def conversation(
    turns: Sequence[ChatTurn],
    tools: Sequence[Tool],
    mode: ToolMode,
    *,
    only: str | None,
    parallel: bool | None,
) -> Conversation | None:
    """What has to go through the engine's own chat route; None where tools have no part in it.

    Tools that must not be called are not offered. Raises InvalidRequest for what does not fit together.
    """
    _check_tools(tools, mode, only)
    _check_results(turns)
    if mode == "none":
        tools = ()
    if not tools and not any(turn.tool_calls or turn.role == "tool" for turn in turns):
        return None
    if turns[-1].role == "assistant":
        raise InvalidRequest(
            "A last message of the assistant cannot be continued when tools are involved.",
            field=f"messages.{len(turns) - 1}",
            hint="End with a message of the user, or with the results of all tool calls.",
        )
    return Conversation(tuple(turns), tuple(tools), mode if tools else "none", only, parallel)


def messages(turns: Sequence[ChatTurn]) -> tuple[Message, ...]:
    """Turns without tools, for a prompt that is rendered here."""
    return tuple(Message(_role(turn), turn.content) for turn in turns)


def _role(turn: ChatTurn) -> Role:
    if turn.role == "tool":
        raise ValueError("a tool's turn has no place in a prompt of ours")
    return turn.role


def _check_tools(tools: Sequence[Tool], mode: ToolMode, only: str | None) -> None:
    names = [tool.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidRequest(f"Two tools are called {twice!r}.", field="tools", hint="Rename one of them.")
    if mode == "required" and not tools:
        raise InvalidRequest(
            "tool_choice demands a call, and there are no tools.", field="tool_choice", hint="Send tools."
        )
    if only is not None and only not in names:
        hint = f"Name one of them: {', '.join(names)}."
        raise InvalidRequest(f"tool_choice names {only!r}, which is no tool.", field="tool_choice", hint=hint)


def _check_results(turns: Sequence[ChatTurn]) -> None:
    known: set[str] = set()
    for index, turn in enumerate(turns):
        known |= {call.id for call in turn.tool_calls}
        if turn.role == "tool" and turn.tool_call_id not in known:
            raise InvalidRequest(
                f"messages.{index} is the result of a tool call that no earlier message made.",
                field=f"messages.{index}",
                hint="Send the assistant's message with its tool calls back before their results.",
            )
