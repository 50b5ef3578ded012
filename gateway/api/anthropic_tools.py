"""Content blocks and tools as Anthropic's clients write them, and the turns that they become."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import to_json

from gateway.api.tool_bodies import TOOL_NAME
from gateway.errors import NotSupported
from gateway.schemas import ChatTurn, Role, Tool, ToolCall, ToolMode

_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]
}


class TextBlock(BaseModel):
    """Something said."""

    text: str


class UseBlock(BaseModel):
    """A call that the assistant made."""

    id: str = Field(min_length=1)
    name: str
    input: dict[str, Any] = Field(default_factory=dict)

    @property
    def call(self) -> ToolCall:
        return ToolCall(self.id, self.name, to_json(self.input).decode())


class ResultBlock(BaseModel):
    """What a call gave."""

    tool_use_id: str = Field(min_length=1)
    content: str = ""
    is_error: bool = False

    @property
    def turn(self) -> ChatTurn:
        content = f"Error: {self.content}" if self.is_error else self.content
        return ChatTurn("tool", content, tool_call_id=self.tool_use_id)


Block = TextBlock | UseBlock | ResultBlock


def _blocks(content: object) -> object:
    """A string is one block. Raises ValueError for blocks that are none of ours."""
    if isinstance(content, str):
        return (TextBlock(text=content),)
    if not isinstance(content, list):
        raise ValueError("it is neither a text nor a list of blocks")  # noqa: TRY004 - pydantic's way to say it
    return tuple(_block(index, block) for index, block in enumerate(content))


def _block(index: int, block: object) -> Block:
    kind = block.get("type") if isinstance(block, dict) else None
    if isinstance(block, dict) and kind == "text" and isinstance(block.get("text"), str):
        return TextBlock(text=block["text"])
    if isinstance(block, dict) and kind == "tool_use":
        return _checked(index, block, "tool_use", "id and name as they came")
    if isinstance(block, dict) and kind == "tool_result":
        parts = block.get("content")
        said = "" if parts is None else text_of(parts)
        return _checked(index, {**block, "content": said}, "tool_result", "a tool_use_id and a content")
    if isinstance(kind, str) and kind != "text":
        raise ValueError(f"block {index} is of type `{kind[:40]}`, and only text and tools are supported")
    raise ValueError(f'block {index} must be like {{"type": "text", "text": "…"}}')


def _checked(index: int, block: dict[str, Any], kind: str, needs: str) -> Block:
    record: type[UseBlock | ResultBlock] = UseBlock if kind == "tool_use" else ResultBlock
    try:
        return record.model_validate(block, strict=True)
    except ValueError:
        raise ValueError(f"block {index} of type `{kind}` must have {needs}") from None


def text_of(content: object) -> object:
    """Text blocks as one text, a line each; a string as it is. Raises ValueError for other blocks."""
    if not isinstance(content, list):
        return content
    return "\n".join(_text_block(index, block) for index, block in enumerate(content))


def _text_block(index: int, block: object) -> str:
    kind = block.get("type") if isinstance(block, dict) else None
    if isinstance(block, dict) and kind == "text" and isinstance(block.get("text"), str):
        return str(block["text"])
    if isinstance(kind, str) and kind != "text":
        raise ValueError(f"block {index} is of type `{kind[:40]}`, and only text is supported")
    raise ValueError(f'block {index} must be like {{"type": "text", "text": "…"}}')


Text = Annotated[str, BeforeValidator(text_of), Field(json_schema_extra=_SCHEMA)]


class Turn(BaseModel):
    """One turn. Turns in a row that have the same role count as one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Role = Field(description="user or assistant; system is accepted too")
    content: Annotated[tuple[Block, ...], BeforeValidator(_blocks)] = Field(
        description="text, or a list of blocks: text, tool_use, tool_result", json_schema_extra=_SCHEMA
    )


class ToolBody(BaseModel):
    """A tool. strict and cache_control are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: str | None = Field(None, description="custom")
    name: str = Field(pattern=TOOL_NAME, description="letters, digits, _, . and -")
    description: str | None = Field(None, description="what it does, for the model")
    input_schema: dict[str, Any] | None = Field(None, description="JSON schema of its input")


class ToolChoice(BaseModel):
    """Which tools have to be called."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["auto", "any", "tool", "none"] = Field(description="auto, any, tool or none")
    name: str | None = Field(None, description="for tool: which one")
    disable_parallel_tool_use: bool = Field(False, description="one call at most")


_MODES: Final[dict[str, ToolMode]] = {
    "auto": "auto",
    "any": "required",
    "tool": "required",
    "none": "none",
}


def choice_of(choice: ToolChoice | None, *, offered: bool) -> tuple[ToolMode, str | None, bool | None]:
    """The mode, the one tool that is demanded, and whether calls may be made side by side."""
    if choice is None:
        return ("auto" if offered else "none"), None, None
    only = (choice.name or "") if choice.type == "tool" else None
    return _MODES[choice.type], only, False if choice.disable_parallel_tool_use else None


def tools_of(bodies: Sequence[ToolBody]) -> tuple[Tool, ...]:
    """Raises NotSupported for tools that run at Anthropic."""
    return tuple(_tool(body, f"tools.{index}") for index, body in enumerate(bodies))


def _tool(body: ToolBody, where: str) -> Tool:
    if body.type not in (None, "custom") or body.input_schema is None:
        raise NotSupported(
            f"{where} is none of the client's own tools: it has no input_schema, or a type of its own.",
            field=where,
            hint="Describe what it takes with an input_schema, and run it yourself.",
        )
    return Tool(body.name, body.input_schema, body.description)


def turns_of(system: str | None, bodies: Iterable[Turn]) -> list[ChatTurn]:
    """The whole conversation; what one role says in a row is one turn."""
    found = [] if system is None else [ChatTurn("system", system)]
    for body in bodies:
        for turn in _turns(body):
            if found and found[-1].role == turn.role != "tool":
                found[-1] = _joined(found[-1], turn)
            else:
                found.append(turn)
    return found


def _turns(body: Turn) -> Iterator[ChatTurn]:
    results = [block.turn for block in body.content if isinstance(block, ResultBlock)]
    calls = tuple(block.call for block in body.content if isinstance(block, UseBlock))
    texts = [block.text for block in body.content if isinstance(block, TextBlock)]
    yield from results
    if texts or calls or not results:
        yield ChatTurn(body.role, "\n".join(texts), calls)


def _joined(first: ChatTurn, second: ChatTurn) -> ChatTurn:
    texts = [turn.content for turn in (first, second) if turn.content or not turn.tool_calls]
    return replace(first, content="\n".join(texts), tool_calls=first.tool_calls + second.tool_calls)
