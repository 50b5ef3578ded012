"""Tools as OpenAI's clients write them, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.api.bodies import null_is_left_out
from gateway.api.tool_bodies import TOOL_NAME
from gateway.errors import InvalidRequest, NotSupported
from gateway.schemas import Tool, ToolCall, ToolMode
from gateway.wire.json import KEYS_ALONE

FUNCTIONS_HINT: Final = "Use tools and tool_choice, which have taken its place."
ToolName = Annotated[str, Field(pattern=TOOL_NAME)]


class OpenAiBody(BaseModel):
    """Base of OpenAI's bodies: what is unknown is ignored, and null is the same as left out."""

    model_config = ConfigDict(
        extra="ignore",
        strict=True,
        allow_inf_nan=False,
        cache_strings=KEYS_ALONE,
        json_schema_extra=null_is_left_out,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, body: Any) -> Any:
        if isinstance(body, dict):
            return {name: value for name, value in body.items() if value is not None}
        return body


class FunctionBody(OpenAiBody):
    """A function that the model may call. strict is ignored: engines follow the schema where they can."""

    name: ToolName = Field(description="letters, digits, _, . and -")
    description: str | None = Field(None, description="what it does, for the model")
    parameters: dict[str, Any] | None = Field(
        None, description="JSON schema of its arguments; none: no arguments"
    )


class ToolBody(OpenAiBody):
    """A tool."""

    type: str = Field("function", description="function")
    function: FunctionBody | None = Field(None, description="the function")


class CalledFunction(OpenAiBody):
    """What was called."""

    name: str = Field(description="which function")
    arguments: str = Field("{}", description="its arguments, as JSON in a string")


class CalledTool(OpenAiBody):
    """A call that the assistant made earlier."""

    id: str = Field(min_length=1, description="as it came in the answer")
    type: str = Field("function", description="function")
    function: CalledFunction = Field(description="what was called")


def tools_of(bodies: Sequence[ToolBody]) -> tuple[Tool, ...]:
    """Raises NotSupported for tools that are no functions."""
    return tuple(_tool(body, f"tools.{index}") for index, body in enumerate(bodies))


def _tool(body: ToolBody, where: str) -> Tool:
    if body.type != "function":
        raise NotSupported(
            f"{where} is of type {body.type[:40]!r}, and only functions are supported.",
            field=f"{where}.type",
            hint="Describe it as a function.",
        )
    if body.function is None:
        raise InvalidRequest(f"{where}.function is required.", field=f"{where}.function")
    parameters = body.function.parameters or {"type": "object", "properties": {}}
    return Tool(body.function.name, parameters, body.function.description)


def calls_of(bodies: Sequence[CalledTool]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(body.id, body.function.name, body.function.arguments) for body in bodies)


def choice_of(choice: Any, *, offered: bool) -> tuple[ToolMode, str | None]:
    """The mode, and the one tool that is demanded. Raises InvalidRequest and NotSupported."""
    if choice is None:
        return ("auto" if offered else "none"), None
    if choice in ("none", "auto", "required"):
        return choice, None
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if isinstance(name, str):
        return "required", name
    if isinstance(choice, dict) and choice.get("type") not in (None, "function"):
        kind = str(choice["type"])[:40]
        raise NotSupported(
            f"tool_choice of type {kind!r} is not supported.",
            field="tool_choice",
            hint="Send only the tools that may be called, with auto or required.",
        )
    raise InvalidRequest(
        'tool_choice must be none, auto, required, or like {"type": "function", "function": {"name": "…"}}.',
        field="tool_choice",
    )
