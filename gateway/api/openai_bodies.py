"""What OpenAI's clients send, and the requests for our own line that it becomes.

Unknown fields are ignored, as every server of this API does. A field that would change the answer and that
we cannot honour is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

from gateway.api.bodies import Name, null_is_left_out
from gateway.config import ModelSpec
from gateway.errors import InvalidRequest, NotSupported
from gateway.generation import GenerationRequest
from gateway.parameters import MAX_STOP_SEQUENCES, MAX_TOP_N_TOKENS, U32_MAX, U64_MAX, Grammar, StopSequence
from gateway.scenarios import RAW, ScenarioBook, messages_for
from gateway.schemas import Message, Role

MAX_MESSAGES = 1000
MAX_CHOICES = 16
ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


def _only(*allowed: Any, why: str, hint: str) -> AfterValidator:
    """Accepts null and ``allowed``; raises NotSupported for the rest."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if value is None or value in allowed:
            return value
        raise NotSupported(f"{info.field_name} is not supported: {why}.", field=info.field_name, hint=hint)

    return AfterValidator(check)


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, str) else value


_LEAVE_OUT = "Leave it out."
_NO_TOOLS = "models are not offered tools"
_TOOLS_HINT = "Describe the tools in a message, and ask for JSON with response_format."


class _Body(BaseModel):
    model_config = ConfigDict(
        extra="ignore", strict=True, allow_inf_nan=False, json_schema_extra=null_is_left_out
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, body: Any) -> Any:
        if isinstance(body, dict):
            return {name: value for name, value in body.items() if value is not None}
        return body


class StreamOptions(_Body):
    """What a stream says besides text."""

    include_usage: bool = Field(False, description="one more chunk at the end, with token counts")


class SamplingBody(_Body):
    """What chat and text completions have in common. user, metadata and store are ignored."""

    model: Name | None = Field(None, description="model or alias; left out, tgi or dummy: the default one")
    max_tokens: int | None = Field(None, gt=0, le=U32_MAX, description="at most this many tokens")
    temperature: float | None = Field(None, ge=0, le=2, description="0 takes the likeliest token each time")
    top_p: float | None = Field(None, ge=0, le=1, description="1 switches it off")
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: Annotated[
        Any,
        _only(0, why="engines have no such penalty", hint="Leave it out, or use frequency_penalty."),
    ] = Field(None, description="0 only")
    stop: Annotated[tuple[StopSequence, ...] | None, BeforeValidator(_listed)] = Field(
        None,
        max_length=MAX_STOP_SEQUENCES,
        description=f"a string, or at most {MAX_STOP_SEQUENCES}: the text ends before the first of them",
        json_schema_extra={"anyOf": [{"type": "string"}, {"type": "array"}, {"type": "null"}]},
    )
    seed: int | None = Field(None, ge=-(2**63), le=U64_MAX, description="choice i gets seed + i")
    n: int = Field(1, ge=1, le=MAX_CHOICES, description="how many answers, generated side by side")
    stream: bool = Field(False, description="send chunks as server-sent events")
    stream_options: StreamOptions = Field(StreamOptions(), description="for streams")
    scenario: Name | None = Field(
        None, description="ours: applied to the last user message, or to the prompt"
    )
    logit_bias: Annotated[Any, _only({}, why="engines cannot weigh single tokens", hint=_LEAVE_OUT)] = Field(
        None, description="empty only"
    )


class JsonSchema(_Body):
    """The schema of a ``response_format``."""

    schema_: dict[str, Any] | None = Field(None, alias="schema", description="a JSON schema")


class ResponseFormat(_Body):
    """The form of the answer."""

    type: str = Field(description="text, json_schema, or json_object with a schema")
    json_schema: JsonSchema | None = Field(None, description="for json_schema")
    schema_: dict[str, Any] | None = Field(None, alias="schema", description="for json_object")


class ChatMessage(_Body):
    """One turn. A name is ignored."""

    role: str = Field(description="system, developer, user or assistant")
    content: Any = Field(None, description="text, or a list of text parts")
    tool_calls: Annotated[Any, _only([], why=_NO_TOOLS, hint=_TOOLS_HINT)] = None
    function_call: Annotated[Any, _only(why=_NO_TOOLS, hint=_TOOLS_HINT)] = None


class ChatBody(SamplingBody):
    """Body of /v1/chat/completions. A last message of the assistant is continued."""

    messages: tuple[ChatMessage, ...] = Field(min_length=1, max_length=MAX_MESSAGES, strict=False)
    max_completion_tokens: int | None = Field(None, gt=0, le=U32_MAX, description="counts for max_tokens")
    logprobs: bool = Field(False, description="the log probability of every token")
    response_format: ResponseFormat | None = Field(None, description="text, or JSON by a schema")
    top_logprobs: int = Field(
        0, ge=0, le=MAX_TOP_N_TOKENS, description="with logprobs: this many likeliest tokens at each place"
    )
    tools: Annotated[Any, _only([], why=_NO_TOOLS, hint=_TOOLS_HINT)] = Field(None, description="empty only")
    tool_choice: Annotated[Any, _only("none", "auto", why=_NO_TOOLS, hint=_TOOLS_HINT)] = Field(
        None, description="none or auto only"
    )
    functions: Annotated[Any, _only([], why=_NO_TOOLS, hint=_TOOLS_HINT)] = Field(
        None, description="empty only"
    )
    function_call: Annotated[Any, _only("none", "auto", why=_NO_TOOLS, hint=_TOOLS_HINT)] = Field(
        None, description="none or auto only"
    )
    modalities: Annotated[Any, _only(["text"], why="answers are text", hint=_LEAVE_OUT)] = Field(
        None, description="text only"
    )
    audio: Annotated[Any, _only(why="answers are text", hint=_LEAVE_OUT)] = Field(
        None, description="null only"
    )
    web_search_options: Annotated[Any, _only(why="nothing is looked up", hint=_LEAVE_OUT)] = Field(
        None, description="null only"
    )

    @property
    def likeliest(self) -> int | None:
        """How many likeliest tokens each place gets; None without logprobs."""
        return self.top_logprobs if self.logprobs else None


class CompletionBody(SamplingBody):
    """Body of /v1/completions. The prompt goes to the model as it is, without a template."""

    prompt: Annotated[tuple[StopSequence, ...], BeforeValidator(_listed)] = Field(
        min_length=1,
        max_length=MAX_CHOICES,
        description="a text, or several: each gets its own choices",
        json_schema_extra={"anyOf": [{"type": "string"}, {"type": "array"}]},
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_N_TOKENS,
        description="the log probability of every token, and of this many likeliest at each place",
    )
    suffix: Annotated[
        Any, _only("", why="models continue a text, they do not fill it in", hint=_LEAVE_OUT)
    ] = Field(None, description="empty only")
    echo: Annotated[Any, _only(False, why="the prompt is not repeated", hint=_LEAVE_OUT)] = Field(
        None, description="false only"
    )
    best_of: Annotated[Any, _only(1, why="every answer is sent", hint="Use n.")] = Field(
        None, description="1 only"
    )

    @property
    def likeliest(self) -> int | None:
        """How many likeliest tokens each place gets; None without logprobs."""
        return self.logprobs


def model_asked(name: str | None, names: Mapping[str, str]) -> str | None:
    """The model a client means; None for the default one. ``tgi`` and ``dummy`` are what clients send that
    know only one model."""
    return None if not name or (name in ("tgi", "dummy") and name not in names) else name


def chat_requests(
    body: ChatBody, spec: ModelSpec, scenarios: ScenarioBook, started: float
) -> list[GenerationRequest]:
    """One request per choice. Raises InvalidRequest."""
    messages = _messages(body.messages)
    if body.scenario is not None:
        messages = _in_scenario(messages, body.scenario, scenarios)
    parameters = _parameters(body, body.max_completion_tokens or body.max_tokens)
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest(
            "top_logprobs needs logprobs.", field="top_logprobs", hint="Set logprobs to true."
        )
    if body.top_logprobs:
        parameters["top_n_tokens"] = body.top_logprobs
    grammar = None if body.response_format is None else _grammar(body.response_format)
    if grammar is not None:
        parameters["grammar"] = grammar.model_dump()
    asked = GenerationRequest(
        model=spec.id,
        inputs=None,
        messages=messages,
        parameters=parameters,
        started=started,
        scenario=body.scenario,
        continue_final_message=messages[-1].role == "assistant",
        stream=_reads_tokens(body) or body.logprobs,
        without=_without(body),
    )
    return _choices(asked, body)


def completion_requests(body: CompletionBody, spec: ModelSpec, started: float) -> list[GenerationRequest]:
    """One request per prompt and choice. Raises InvalidRequest."""
    if len(body.prompt) * body.n > MAX_CHOICES:
        raise InvalidRequest(
            f"{len(body.prompt)} prompts with {body.n} choices each are more than {MAX_CHOICES}.",
            field="n",
            hint="Send fewer at once.",
        )
    parameters = _parameters(body, body.max_tokens)
    if body.logprobs:
        parameters["top_n_tokens"] = body.logprobs
    if body.scenario is None and body.temperature is None and spec.parameters.do_sample is None:
        # The raw scenario has no temperature, and engines are greedy without: this API's default samples.
        parameters.setdefault("do_sample", True)
    asked = GenerationRequest(
        model=spec.id,
        inputs=None,
        messages=None,
        parameters=parameters,
        started=started,
        scenario=body.scenario or RAW,
        stream=_reads_tokens(body) or body.logprobs is not None,
        without=_without(body),
    )
    return [one for prompt in body.prompt for one in _choices(replace(asked, inputs=prompt), body)]


def _choices(asked: GenerationRequest, body: SamplingBody) -> list[GenerationRequest]:
    if body.seed is None:
        return [asked] * body.n
    # With one seed for all, the choices would all be the same. Engines take no negative ones.
    seeds = [(body.seed + index) % 2**64 for index in range(body.n)]
    return [replace(asked, parameters={**asked.parameters, "seed": seed}) for seed in seeds]


def _reads_tokens(body: SamplingBody) -> bool:
    """Whether the answer is read token by token: an engine can run past a stop string inside a token."""
    return body.stream or bool(body.stop)


def _without(body: SamplingBody) -> frozenset[str]:
    return frozenset({"top_p"} if body.top_p == 1 else ())


def _parameters(body: SamplingBody, max_tokens: int | None) -> dict[str, Any]:
    """TGI's parameters; those that the client did not set are left to the defaults of scenario and model."""
    given = {
        "max_new_tokens": max_tokens,
        "frequency_penalty": body.frequency_penalty,
        "stop": list(body.stop) if body.stop else None,
    }
    if body.temperature == 0 or body.top_p == 0:
        given["do_sample"] = False
    else:
        # A temperature of 1 alone would leave an engine greedy.
        given["do_sample"] = True if body.temperature is not None else None
        given["temperature"] = body.temperature
        given["top_p"] = None if body.top_p == 1 else body.top_p
    return {name: value for name, value in given.items() if value is not None}


def _messages(turns: tuple[ChatMessage, ...]) -> tuple[Message, ...]:
    return tuple(
        Message(_role(turn.role, f"messages.{index}.role"), _text(turn.content, f"messages.{index}.content"))
        for index, turn in enumerate(turns)
    )


def _role(name: str, where: str) -> Role:
    if name in ("tool", "function"):
        raise NotSupported(f"{where} {name!r} is not supported: {_NO_TOOLS}.", field=where, hint=_TOOLS_HINT)
    if name not in ROLES:
        raise InvalidRequest(f"{where} must be one of {', '.join(ROLES)}, not {name!r}.", field=where)
    return ROLES[name]


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise InvalidRequest(f"{where} must be a text or a list of text parts.", field=where)
    return "".join(_part(part, f"{where}.{index}") for index, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    kind, text = (part.get("type"), part.get("text")) if isinstance(part, dict) else (None, None)
    if kind == "text" and isinstance(text, str):
        return text
    if isinstance(kind, str) and kind != "text":
        raise NotSupported(
            f"{where} is a part of type {kind[:40]!r}, and only text is supported.",
            field=where,
            hint="Send text alone.",
        )
    raise InvalidRequest(f'{where} must be a part like {{"type": "text", "text": "…"}}.', field=where)


def _in_scenario(messages: tuple[Message, ...], name: str, book: ScenarioBook) -> tuple[Message, ...]:
    """The scenario around the last user message. A system message of the client's own stands."""
    scenario = book.get(name)
    if scenario.is_raw:
        raise InvalidRequest(
            "The raw scenario has no conversation.", field="scenario", hint="Use /v1/completions for it."
        )
    last = max((index for index, one in enumerate(messages) if one.role == "user"), default=None)
    if last is None:
        raise InvalidRequest(
            "A scenario is applied to the last user message, and there is none.", field="scenario"
        )
    *system, wrapped = messages_for(scenario, messages[last].content)
    own = any(one.role == "system" for one in messages)
    return (*(() if own else system), *messages[:last], wrapped, *messages[last + 1 :])


def _grammar(asked: ResponseFormat) -> Grammar | None:
    if asked.type == "text":
        return None
    if asked.type == "json_schema":
        schema = asked.json_schema and asked.json_schema.schema_
        where = "response_format.json_schema.schema"
    elif asked.type == "json_object":
        schema, where = asked.schema_, "response_format.schema"
    else:
        what = f"response_format.type {asked.type[:40]!r}"
        hint = "There are text, json_schema, and json_object with a schema."
        raise NotSupported(f"{what} is not supported.", field="response_format.type", hint=hint)
    if schema is None:
        hint = "An engine writes JSON by a schema: say which properties the object has."
        raise InvalidRequest(f"{where} is required for {asked.type}.", field=where, hint=hint)
    return Grammar(type="json", value=schema)
