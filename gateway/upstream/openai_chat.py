"""The chat routes of vLLM, SGLang, llama.cpp's server and Ollama, for what involves tools."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import httpx

from gateway.errors import GatewayError, NotSupported
from gateway.parameters import samples
from gateway.schemas import Clocks, Completed, Conversation, Prompt, Token
from gateway.upstream import openai_flavours
from gateway.upstream.bodies import json_body, object_of, within
from gateway.upstream.calls import Call
from gateway.upstream.chat_calls import Calls
from gateway.upstream.chat_request import Chat, message_body, streamed
from gateway.upstream.chat_stream import ChatReading, opened
from gateway.upstream.exchange import fetch, open_stream
from gateway.upstream.openai_errors import error_of_answer, error_of_event
from gateway.upstream.openai_flavours import OPENAI_FIELDS, Flavour
from gateway.upstream.openai_request import Asked, Served
from gateway.upstream.openai_served import NO_SUCH_ROUTE

PATH: Final = "/v1/chat/completions"


@asynccontextmanager
async def stream(
    client: httpx.AsyncClient, base: str, served: Served, chat: Chat, clocks: Clocks, *, logprobs: bool
) -> AsyncIterator[AsyncIterator[Token | Completed]]:
    """See ``EngineClient.chat``; ``served`` is what answers at ``base``."""
    call = Call("POST", base, PATH, json_body(body_of(chat, served, logprobs=logprobs)))
    prompt = chat.conversation.text

    def explain(event: Mapping[str, Any], pieces: int) -> GatewayError:
        return error_of_event(event, call.address, prompt, pieces)

    async with open_stream(
        client, call, clocks, lambda answer: error_of_answer(answer, call.address, prompt)
    ) as events:
        calls = Calls(chat.conversation, keeps_ids=True)
        async with opened(ChatReading(events, chat, call, explain, calls)) as pieces:
            yield pieces


async def count(
    client: httpx.AsyncClient, base: str, served: Served, conversation: Conversation, timeout_s: float
) -> int | None:
    """See ``EngineClient.count_chat``: vLLM counts a conversation, llama.cpp renders one and then counts."""
    if not served.flavour.counts:
        return None
    chat = _narrowed(Chat.of(conversation, {}), served.flavour)
    body: dict[str, object] = {"messages": _messages(chat), **chat.tools()}
    body |= {} if served.model is None else {"model": served.model}
    if served.flavour is openai_flavours.LLAMA_CPP:
        rendering = Call("POST", base, "/apply-template", json_body(body))
        rendered = await _asked(client, rendering, conversation, timeout_s)
        if rendered is None:
            return None
        body = {"content": str(rendered.get("prompt", "")), "add_special": True, "parse_special": True}
    counting = Call("POST", base, "/tokenize", json_body(body))
    split = await _asked(client, counting, conversation, timeout_s)
    listed = (split or {}).get("tokens")
    return len(listed) if isinstance(listed, list) else None


async def _asked(
    client: httpx.AsyncClient, call: Call, conversation: Conversation, timeout_s: float
) -> dict[str, Any] | None:
    answer = await fetch(client, call, within(timeout_s))
    if answer.status in NO_SUCH_ROUTE:
        return None
    if answer.status != httpx.codes.OK:
        raise error_of_answer(answer, call.address, conversation.text)
    return object_of(answer.body, call)


def body_of(chat: Chat, served: Served, *, logprobs: bool) -> dict[str, object]:
    """The request. Raises InvalidRequest for what the engine cannot do."""
    flavour = served.flavour
    _check(chat, served, logprobs=logprobs)
    chat = _narrowed(chat, flavour)
    body: dict[str, object] = {"messages": _messages(chat), **streamed()}
    body |= flavour.defaults
    body |= _values(chat, flavour)
    if served.model is not None:
        body["model"] = served.model
    if logprobs:
        body |= {"logprobs": True, "top_logprobs": max(chat.top, flavour.logprobs or 0)}
    if chat.offers_tools and chat.conversation.parallel is not None:
        body["parallel_tool_calls"] = chat.conversation.parallel
    return body | chat.tools() | _form(chat, flavour)


def _check(chat: Chat, served: Served, *, logprobs: bool) -> None:
    flavour = served.flavour
    openai_flavours.check(chat.parameters, flavour)
    if chat.offers_tools and (served.tools is False or not flavour.tools):
        # llama.cpp would leave them out without a word.
        raise _unable("tools", f"the chat template of its model, on {flavour.name}, knows no tools")
    if chat.conversation.mode == "required" and chat.offers_tools and not flavour.chooses:
        raise _unable("tool_choice", f"{flavour.name} lets the model choose, whatever tool_choice says")
    if chat.offers_tools and "grammar" in chat.parameters and not flavour.forms_with_tools:
        raise _unable("parameters.grammar", f"{flavour.name} takes no form of the answer beside tools")
    if logprobs and flavour.logprobs is None:
        raise _unable("logprobs", f"{flavour.name} gives no log probabilities")
    if logprobs and chat.offers_tools and not flavour.logprobs_with_tools:
        raise _unable("logprobs", f"{flavour.name} gives no log probabilities beside tools")


def _unable(field: str, why: str) -> NotSupported:
    return NotSupported(
        f"{field.removeprefix('parameters.')} cannot be used with this model: {why}",
        field=field,
        hint="Leave it out, or ask another model: GET /v1/models says what each can do.",
    )


def _narrowed(chat: Chat, flavour: Flavour) -> Chat:
    """Where no tool can be named, the one that is meant is the only one that is offered."""
    said = chat.conversation
    if said.only is None or flavour.names_tool:
        return chat
    tools = tuple(tool for tool in said.tools if tool.name == said.only)
    return replace(chat, conversation=replace(said, tools=tools, only=None))


def _messages(chat: Chat) -> list[dict[str, object]]:
    return [message_body(turn) for turn in chat.conversation.turns]


def _values(chat: Chat, flavour: Flavour) -> dict[str, object]:
    names = {**OPENAI_FIELDS, **flavour.fields}
    values: dict[str, object] = {
        names[name]: value
        for name, value in chat.parameters.items()
        if name in names and name != "top_n_tokens"
    }
    if "seed" in values:
        values["seed"] = chat.parameters["seed"] % flavour.seeds
    if not samples(chat.parameters):
        return {**values, "temperature": 0}
    return {"temperature": 1.0, "top_p": 1.0, **values}


def _form(chat: Chat, flavour: Flavour) -> dict[str, object]:
    """The form of the answer: chat routes have one field for it."""
    schema = Asked.of(Prompt(""), chat.parameters).schema()
    if schema is None:
        return {}
    wrapped = {"name": "answer", "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": wrapped}}
