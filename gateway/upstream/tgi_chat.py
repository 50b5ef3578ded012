"""TGI's chat route, with its faults repaired on the way in and on the way out.

Left out of a request: ``presence_penalty`` (it would become a repetition penalty), nulls (they are refused),
stop strings (they would stay in the text, and end a tool call in the middle: they are looked for here).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx

from gateway.errors import GatewayError, InvalidRequest, NotSupported
from gateway.parameters import samples
from gateway.schemas import ChatTurn, Clocks, Completed, Conversation, Token
from gateway.upstream.bodies import json_body, object_of, within
from gateway.upstream.calls import Call
from gateway.upstream.chat_calls import Calls, listed, of_call, text_of_arguments
from gateway.upstream.chat_request import Chat, call_body, message_body, streamed
from gateway.upstream.chat_stream import ChatReading, opened
from gateway.upstream.exchange import fetch, open_stream
from gateway.upstream.tgi_errors import error_of_answer, error_of_chat_event

PATH: Final = "/v1/chat/completions"
_FIELDS: Final[Mapping[str, str]] = {
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
}
_HERE: Final = frozenset({"do_sample", "grammar", "top_n_tokens", "details"})
_IN_WORDS: Final = frozenset({"no_tool", "notify_error"})
"""Functions that TGI adds to those it is given, for a model that rather answers in words."""


@asynccontextmanager
async def stream(
    client: httpx.AsyncClient, url: str, chat: Chat, clocks: Clocks, *, logprobs: bool
) -> AsyncIterator[AsyncIterator[Token | Completed]]:
    """See ``EngineClient.chat``."""
    call = Call("POST", url, PATH, json_body(body_of(chat, logprobs=logprobs)))
    prompt = chat.conversation.text

    def explain(event: Mapping[str, Any], pieces: int) -> GatewayError:
        return error_of_chat_event(event, call.address, prompt, pieces)

    async with open_stream(
        client, call, clocks, lambda answer: error_of_answer(answer, call.address, prompt)
    ) as events:
        reading = ChatReading(events, chat, call, explain, TgiCalls(chat.conversation))
        async with opened(reading) as pieces:
            yield pieces


async def count(
    client: httpx.AsyncClient, url: str, conversation: Conversation, timeout_s: float
) -> int | None:
    """See ``EngineClient.count_chat``: TGI renders the conversation, tools and all, and splits it."""
    chat = Chat.of(conversation, {})
    body = {"model": "tgi", "messages": messages_of(conversation), **chat.tools()}
    call = Call("POST", url, "/chat_tokenize", json_body(body))
    answer = await fetch(client, call, within(timeout_s))
    if answer.status in {404, 405, 501}:
        return None
    if answer.status != httpx.codes.OK:
        raise error_of_answer(answer, call.address, conversation.text)
    listed_tokens = object_of(answer.body, call).get("tokenize_response")
    return len(listed_tokens) if isinstance(listed_tokens, list) else None


def body_of(chat: Chat, *, logprobs: bool) -> dict[str, object]:
    """The request. Raises NotSupported for what this route has no field for."""
    for name in chat.parameters:
        if name not in _FIELDS and name not in _HERE:
            raise NotSupported(
                f"parameters.{name} cannot be used together with tools: TGI's chat route has no such field",
                field=f"parameters.{name}",
                hint="Leave it out.",
            )
    body: dict[str, object] = {"model": "tgi", "messages": messages_of(chat.conversation), **streamed()}
    body |= {_FIELDS[name]: value for name, value in chat.parameters.items() if name in _FIELDS}
    if not samples(chat.parameters):
        body["temperature"] = 0.0  # anything else, or nothing, draws
    if logprobs:
        body |= {"logprobs": True, "top_logprobs": chat.top}
    return body | chat.tools() | _form(chat)


def messages_of(conversation: Conversation) -> list[dict[str, object]]:
    return [_message(turn) for turn in conversation.turns]


def _message(turn: ChatTurn) -> dict[str, object]:
    """TGI reads a content, or else tool calls: of both it would only see the content."""
    body = message_body(turn)
    if turn.tool_calls and turn.content:
        calls = json.dumps(list(map(call_body, turn.tool_calls)), ensure_ascii=False)
        return {"role": turn.role, "content": f"{turn.content}\n{calls}"}
    if turn.tool_calls:
        del body["content"]
    return body


def _form(chat: Chat) -> dict[str, object]:
    grammar = chat.parameters.get("grammar")
    if grammar is None:
        return {}
    if chat.offers_tools:
        raise InvalidRequest(
            "a grammar and tools cannot be used together: TGI makes one grammar of the tools",
            field="parameters.grammar",
            hint="Ask for the tools first, and for the form of the answer in a second request without them.",
        )
    return {"response_format": grammar}


class TgiCalls(Calls):
    """Older TGI streams the text of its grammar as the arguments of a call without a name. Any of them may
    call a function of TGI's own, which is an answer in words."""

    def __init__(self, conversation: Conversation) -> None:
        # TGI gives every call the same id, or none.
        super().__init__(conversation, keeps_ids=False)
        self._offered = {tool.name for tool in conversation.tools}
        self._held: list[str] | None = None
        self._named = ""

    def read(self, pieces: object) -> Iterator[Token]:
        function = listed(pieces)[0].get("function") or {} if pieces else {}
        name = str(function.get("name") or "")
        if self._held is None and not self and (not name or self._is_words(name)):
            self._held, self._named = [], name
        if self._held is None:
            yield from super().read(pieces)
        else:
            self._held.append(text_of_arguments(function.get("arguments")))

    def finish(self) -> Iterator[Token]:
        if self._held is not None:
            yield from self._settled("".join(self._held))
        yield from super().finish()

    def _is_words(self, name: str) -> bool:
        return name in _IN_WORDS and name not in self._offered

    def _settled(self, text: str) -> Iterator[Token]:
        """What was held back: the text of a grammar with the name inside, or an answer in words."""
        name, arguments = self._named, _object(text)
        if not name:
            arguments = _object(arguments.get("function", arguments))
            name = str(arguments.pop("_name", ""))
        if self._is_words(name):
            words = arguments.get("content") or arguments.get("error") or ""
            yield Token(str(words), None, None, special=False)
        elif delta := self.begin(0, name, "", text_of_arguments(arguments) if name else text):
            yield of_call(delta)


def _object(value: object) -> dict[str, Any]:
    """``value``, or the JSON in it, as an object; an empty one for anything else."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return dict(value) if isinstance(value, dict) else {}
