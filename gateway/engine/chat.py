"""TGI's chat requests, and its way of making a model call tools: by a grammar that allows nothing else.

The model is shown the tools in its prompt and writes ``{"function": {"_name": …, arguments …}}``. With the
choice ``auto`` one of the functions it may choose is ``no_tool``; then it is asked again, without tools.
This works with every model and template, also with those that were never taught to call tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from gateway.engine.backend import Refused, ToolRefused
from gateway.wire.grammars import closed, schema_of
from gateway.wire.tgi import (
    Bool,
    Float,
    GenerateParameters,
    GenerateRequest,
    Grammar,
    Str,
    UInt32,
    UInt64,
)

NO_TOOL: Final = "no_tool"


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class FunctionName(_Body):
    name: Str


class Function(_Body):
    """A function to offer. TGI knows the schema of its arguments by two names."""

    name: Str
    description: Str | None = None
    arguments: Any = Field(None, validation_alias=AliasChoices("arguments", "parameters"))


class Tool(_Body):
    type: Str = "function"
    function: Function


class NamedTool(_Body):
    function: FunctionName


class CalledFunction(_Body):
    name: Str
    arguments: Any = None


class CalledTool(_Body):
    id: Str = ""
    function: CalledFunction


def _flat(content: object) -> object:
    """Text parts as one text, as TGI's templates see them."""
    if not isinstance(content, list):
        return content
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))


class ChatMessage(_Body):
    role: Str
    content: Annotated[Str | None, BeforeValidator(_flat)] = None
    tool_calls: list[CalledTool] | None = None
    tool_call_id: Str | None = None


class StreamOptions(_Body):
    include_usage: Bool = False


class ChatRequest(_Body):
    """Body of ``/v1/chat/completions`` and ``/chat_tokenize``; what TGI ignores is ignored."""

    messages: list[ChatMessage] = Field(min_length=1)
    model: Str | None = None
    max_tokens: UInt32 | None = None
    temperature: Float | None = None
    top_p: Float | None = None
    seed: UInt64 | None = None
    stop: list[Str] | None = None
    stream: Bool = False
    stream_options: StreamOptions = StreamOptions()
    logprobs: Bool | None = None
    top_logprobs: UInt32 | None = None
    frequency_penalty: Float | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    tool_prompt: Str | None = None
    response_format: Grammar | None = None

    def offered(self) -> list[Tool]:
        """The tools that may be called. Raises ToolRefused for a choice that is not among them."""
        tools = self.tools or []
        if self.tool_choice == "none":
            return []
        if not isinstance(self.tool_choice, NamedTool):
            return tools
        wanted = self.tool_choice.function.name
        found = [tool for tool in tools if tool.function.name == wanted]
        if not found:
            raise ToolRefused(f"Tool with name {wanted} not found")
        return found

    @property
    def may_answer_in_words(self) -> bool:
        return self.tool_choice in (None, "auto")

    def generation(self, prompt: str) -> GenerateRequest:
        """The request for ``prompt``, with TGI's meaning of each field: greedy at temperature 0 only."""
        greedy = self.temperature == 0
        parameters = GenerateParameters(
            do_sample=not greedy,
            temperature=None if greedy else self.temperature,
            top_p=None if greedy else self.top_p,
            seed=self.seed,
            stop=self.stop or [],
            max_new_tokens=self.max_tokens,
            frequency_penalty=self.frequency_penalty,
            top_n_tokens=(self.top_logprobs or 0) if self.logprobs else None,
            grammar=self.response_format,
            details=True,
        )
        return GenerateRequest(inputs=prompt, parameters=parameters)


def check(request: ChatRequest) -> None:
    """Raises ToolRefused for what TGI cannot put together."""
    if request.response_format is not None and request.tools:
        raise ToolRefused("Grammar and tools are mutually exclusive")


def turns(request: ChatRequest, offered: Sequence[Tool]) -> list[dict[str, Any]]:
    """The conversation in the three roles that every template has; tools stand in front of it."""
    found = list(_turns(request.messages))
    if not offered:
        return _merged(found)
    rows = [_shown(tool) for tool in offered]
    if request.may_answer_in_words:
        rows.append({"name": NO_TOOL, "description": "answer in words, when no function is needed any more"})
        if request.messages[-1].role == "tool":
            found[-1]["content"] += f"\n{_REMINDER}"
    shown = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return _merged(
        [{"role": "system", "content": f"{request.tool_prompt or _INTRODUCTION}\n{shown}"}, *found]
    )


_INTRODUCTION: Final = (
    "Functions are at your disposal. To call one, answer with JSON alone: "
    '{"function": {"_name": its name, and its arguments by their names}}. The functions are:'
)
_REMINDER: Final = f"The function to call now is {NO_TOOL}, unless something is missing."
"""Without it, a small model makes the same call again and again."""


def _shown(tool: Tool) -> dict[str, Any]:
    function = tool.function
    return {"name": function.name, "description": function.description, "parameters": function.arguments}


def _turns(messages: Sequence[ChatMessage]) -> Iterator[dict[str, Any]]:
    """Calls are told in words: a small model writes again what it has seen itself write."""
    calls: dict[str, str] = {}
    for message in messages:
        content = message.content or ""
        if message.role == "tool":
            subject = "It" if len(calls) == 1 else calls.get(message.tool_call_id or "", "The function")
            yield {"role": "user", "content": f"{subject} gave: {content}"}
        elif message.tool_calls:
            calls = {call.id: _called(call.function) for call in message.tool_calls}
            intent = f"I will call {' and '.join(calls.values())}."
            yield {"role": "assistant", "content": f"{content} {intent}".lstrip()}
        else:
            yield {"role": message.role, "content": content}


def _called(function: CalledFunction) -> str:
    given = function.arguments
    arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return f"{function.name}({arguments})"


def _merged(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turns in a row of one role are one: some templates refuse anything else."""
    merged: list[dict[str, Any]] = []
    for turn in found:
        if merged and merged[-1]["role"] == turn["role"]:
            merged[-1]["content"] += f"\n{turn['content']}"
        else:
            merged.append(dict(turn))
    return merged


def grammar(offered: Sequence[Tool], *, words: bool, words_first: bool) -> dict[str, Any]:
    """The JSON schema of a call of any of ``offered``, or of none if ``words`` are an answer, too.

    ``words_first`` puts that at the head of the list: for a backend that takes the first of everything.
    """
    functions = [_call_schema(tool.function, number) for number, tool in enumerate(offered)]
    if words:
        none = _object_schema({"_name": {"const": NO_TOOL}}, ["_name"])
        functions = [none, *functions] if words_first else [*functions, none]
    schema = _object_schema({"function": {"anyOf": functions}}, ["function"])
    arguments = {
        f"tool{number}": _moved(_arguments(tool.function), f"#/$defs/tool{number}")
        for number, tool in enumerate(offered)
    }
    return {**schema, "$defs": arguments}


def _call_schema(function: Function, number: int) -> dict[str, Any]:
    arguments = _arguments(function)
    properties = _moved(arguments.get("properties") or {}, f"#/$defs/tool{number}")
    required = arguments.get("required") or []
    return {
        **_object_schema({"_name": {"const": function.name}, **properties}, ["_name", *required]),
        "additionalProperties": arguments.get("additionalProperties") is True,
    }


def _object_schema(properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def _arguments(function: Function) -> dict[str, Any]:
    """The schema of the arguments. Raises Refused when it is none."""
    given = {} if function.arguments is None else schema_of("json", function.arguments)
    if not isinstance(given, dict):
        raise Refused(f"the parameters of {function.name} are not a JSON schema")
    return dict(closed(given))


def _moved(schema: Any, to: str) -> Any:
    """``schema`` with references to its own root led to where that stands now."""
    if isinstance(schema, list):
        return [_moved(one, to) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: to + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, to)
        for key, value in schema.items()
    }
