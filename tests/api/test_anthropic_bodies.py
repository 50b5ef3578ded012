"""What Anthropic's bodies become, and its errors, without any engine."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.answers import Answer, Receipt
from gateway.api.anthropic import Reply
from gateway.api.anthropic_bodies import CountBody, MessagesBody, error_body, request_of
from gateway.api.bodies import parse
from gateway.api.reading import Ended
from gateway.errors import (
    EngineError,
    EngineTimeout,
    GatewayError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    ModelUnavailable,
    Overloaded,
    PayloadTooLarge,
    Unauthorized,
)
from gateway.schemas import FinishReason, Message

HELLO = {"role": "user", "content": "hello brave new world"}
LEAST: dict[str, Any] = {"model": "mirror", "max_tokens": 6, "messages": [HELLO]}


def asked(**body: Any) -> Any:
    return request_of(MessagesBody.model_validate({**LEAST, **body}), 0.0)


def block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


CONVERSATIONS: list[Any] = [
    pytest.param({"messages": [turn("user", "a")]}, [("user", "a")], id="text"),
    pytest.param({"messages": [turn("user", [block("a"), block("b")])]}, [("user", "a\nb")], id="blocks"),
    pytest.param(
        {"system": "s", "messages": [turn("user", "a")]}, [("system", "s"), ("user", "a")], id="system"
    ),
    pytest.param(
        {"system": [block("s"), block("t")], "messages": [turn("user", "a")]},
        [("system", "s\nt"), ("user", "a")],
        id="system blocks",
    ),
    pytest.param(
        {
            "messages": [
                turn("user", "a"),
                turn("user", [block("b")]),
                turn("assistant", "c"),
                turn("user", "d"),
            ]
        },
        [("user", "a\nb"), ("assistant", "c"), ("user", "d")],
        id="turns of one role in a row",
    ),
]


@pytest.mark.parametrize(("body", "expected"), CONVERSATIONS)
def test_conversation_becomes_messages(body: dict[str, Any], expected: list[tuple[Any, str]]) -> None:
    request = asked(**body)

    assert request.messages == tuple(Message(role, content) for role, content in expected)
    assert not request.continue_final_message


SAMPLING: list[Any] = [
    ({}, {}, frozenset()),
    ({"temperature": 0.5}, {"temperature": 0.5, "do_sample": True}, frozenset()),
    ({"temperature": 0}, {"do_sample": False}, frozenset()),
    ({"temperature": 1, "top_p": 1}, {"temperature": 1.0, "top_p": 1.0, "do_sample": True}, {"top_p"}),
    ({"top_k": 5}, {"top_k": 5}, frozenset()),
    ({"top_k": 0}, {"top_k": 0}, {"top_k"}),
    ({"stop_sequences": list("abcdef")}, {"stop": list("abcd")}, frozenset()),
    (
        {"metadata": {"user_id": "u"}, "service_tier": "auto", "thinking": {"type": "disabled"}},
        {},
        frozenset(),
    ),
]


@pytest.mark.parametrize(("body", "parameters", "without"), SAMPLING)
def test_sampling_becomes_the_engines_parameters(body: Any, parameters: Any, without: Any) -> None:
    request = asked(**body)

    assert request.parameters == {"max_new_tokens": 6, **parameters}
    assert request.without == without


def test_last_turn_of_the_assistant_is_to_be_continued() -> None:
    assert asked(messages=[HELLO, turn("assistant", "The answer is (")]).continue_final_message


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("eos_token", "end_turn"), ("length", "max_tokens"), ("tool_calls", "tool_use")],
)
def test_engines_reason_becomes_that_apis(finish: FinishReason, reason: str) -> None:
    receipt = Receipt(0, 0, 0, 0, 0, 0)
    answer = Answer("echo", "x", finish, 1, 1, None, receipt)

    ending = Reply("r", ("stop",)).ending(Ended(answer, None, at_limit=finish == "length"))

    assert ending == {"stop_reason": reason, "stop_sequence": None}


def test_list_with_a_wrong_item_is_not_also_called_too_short() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(b'{"model": "m", "messages": [{"role": "user", "content": 5}]}', CountBody)

    said = "messages.0.content: it is neither a text nor a list of blocks."
    assert caught.value.message == said


KINDS: list[tuple[GatewayError, str]] = [
    (InvalidRequest("x"), "invalid_request_error"),
    (MethodNotAllowed("x"), "invalid_request_error"),
    (Unauthorized("x"), "authentication_error"),
    (ModelNotFound("x"), "not_found_error"),
    (PayloadTooLarge("x"), "request_too_large"),
    (Overloaded("x"), "rate_limit_error"),
    (ModelUnavailable("x"), "overloaded_error"),
    (EngineError("x"), "api_error"),
    (EngineTimeout("x"), "timeout_error"),
    (InternalError("x"), "api_error"),
]


@pytest.mark.parametrize(("error", "kind"), KINDS)
def test_error_has_that_apis_type(error: GatewayError, kind: str) -> None:
    assert error_body(error, "r") == {
        "type": "error",
        "error": {"type": kind, "message": "x."},
        "request_id": "r",
    }
