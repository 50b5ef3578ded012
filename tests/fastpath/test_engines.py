"""Whatever an engine does: clients, figures and the log are told the same as on the ordinary way."""

from __future__ import annotations

import pytest
from fastpath.conftest import FORMS, Ways
from fastpath.scripted import END, STREAM, Step, answer, chunk, event, failure, last, token, whole

JSON = b'{"error":"too much","error_type":"validation"}'
HUGE = b"x" * 200_000
FULL = b'{"error":"Model is overloaded","error_type":"overloaded"}'
EVENTS = token(1) + token(2) + last(3)
PLAIN_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"

REFUSALS: dict[str, list[Step]] = {
    **{
        f"{status.split()[0]} {kind}": [answer(status, body, form)]
        for status in ("404 N", "422 U", "424 F", "429 T", "500 I", "503 S", "204 N", "302 F", "418 T")
        for kind, body, form in (
            ("json", JSON, "application/json"),
            ("text", b"no, thank you", "text/plain"),
            ("empty", b"", "application/json"),
        )
        if status != "204 N" or kind == "empty"
    },
    "overloaded": [answer("429 Too Many Requests", FULL, "application/json", "retry-after: 7")],
    "too large": [answer("500 Internal Server Error", HUGE, "text/plain")],
    "refusal without an end": [b"HTTP/1.1 500 I\r\ncontent-length: 20\r\n\r\nno", "CLOSE"],
    "refusal to the end of the connection": [b"HTTP/1.1 500 I\r\n\r\nnot now", "CLOSE"],
    "refusal in pieces": [b"HTTP/1.1 422 U\r\ncontent-le", "PAUSE", b"ngth: 4\r\n\r\nno", "PAUSE", b", "],
    "page": [answer("200 OK", b"<html>", "text/html")],
    "json instead of events": [answer("200 OK", JSON)],
    "no content type": [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(EVENTS), EVENTS)],
    "odd content type": [
        b"HTTP/1.1 200 OK\r\ncontent-type: Text/Event-Stream; charset=x\r\n\r\n" + EVENTS,
        "CLOSE",
    ],
}
BROKEN: dict[str, list[Step]] = {
    "closes": ["CLOSE"],
    "resets": ["RESET"],
    "no HTTP": [b"SSH-2.0-OpenSSH\r\n", "CLOSE"],
    "half a head": [b"HTTP/1.1 200 OK\r\ncontent-ty", "CLOSE"],
    "half a head, reset": [b"HTTP/1.1 200 OK\r\ncontent-ty", "PAUSE", "RESET"],
    "a head alone": [STREAM, "PAUSE", "CLOSE"],
    "a head alone, reset": [STREAM, "PAUSE", "RESET"],
    "no events": [STREAM + END],
    "comments alone": [STREAM, chunk(b":\n\n"), "PAUSE", chunk(b": still there\n\n"), END],
    "half an event": [STREAM, chunk(token(1)[:40]), "PAUSE", "CLOSE"],
    "half an event, end": [STREAM, chunk(token(1)[:40]), END],
    "half a chunk": [STREAM, chunk(token(1))[:30], "PAUSE", "CLOSE"],
    "error first": [STREAM, chunk(failure()), END],
    "validation error first": [STREAM, chunk(failure("`inputs` is too long", "validation")), END],
    "overloaded first": [STREAM, chunk(failure("Model is overloaded", "overloaded")), END],
    "no JSON": [STREAM, chunk(b"data: {nonsense\n\n"), END],
    "no token": [STREAM, chunk(b'data: {"index":1}\n\n'), END],
    "a list": [STREAM, chunk(b"data: []\n\n"), END],
    "bad chunk": [STREAM, b"zz\r\nno\r\n"],
    "huge head": [b"HTTP/1.1 200 OK\r\nx: " + b"y" * 400_000],
    "changes the protocol": [
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        "PAUSE",
        "CLOSE",
    ],
    "after a token": [STREAM, chunk(token(1)), "PAUSE", "CLOSE"],
    "after a token, reset": [STREAM, chunk(token(1)), "PAUSE", "RESET"],
    "after a token, end": [STREAM, chunk(token(1)), "PAUSE", END],
    "after two at once": [STREAM, chunk(token(1) + token(2)), "PAUSE", "CLOSE"],
    "in the second event": [STREAM, chunk(token(1)), "PAUSE", chunk(token(2)[:50]), "PAUSE", "CLOSE"],
    "in the second chunk": [STREAM, chunk(token(1)), "PAUSE", chunk(token(2))[:50], "PAUSE", "CLOSE"],
    "error after a token": [STREAM, chunk(token(1)), "PAUSE", chunk(failure()), END],
    "error behind a token": [STREAM, chunk(token(1) + failure()), END],
    "no JSON after a token": [STREAM, chunk(token(1)), "PAUSE", chunk(b"data: {nonsense\n\n"), END],
    "a number of tokens that is none": [
        STREAM,
        chunk(token(1)),
        "PAUSE",
        chunk(last(2, generated_text=3)),
        END,
    ],
}
GOOD: dict[str, list[Step]] = {
    "one piece": [whole()],
    "one chunk": [STREAM + chunk(EVENTS) + END],
    "each by itself": [
        STREAM,
        "PAUSE",
        chunk(token(1)),
        "PAUSE",
        chunk(token(2)),
        "PAUSE",
        chunk(last(3)),
        "PAUSE",
        END,
    ],
    "last token alone": [STREAM + chunk(last(1)) + END],
    "no space": [STREAM + chunk(EVENTS.replace(b"data: ", b"data:")) + END],
    "CRLF": [STREAM + chunk(EVENTS.replace(b"\n", b"\r\n")) + END],
    "CR": [STREAM + chunk(EVENTS.replace(b"\n", b"\r")) + END],
    "keep-alives between": [
        STREAM,
        chunk(b":\n\n"),
        "PAUSE",
        chunk(token(1) + b":\n\n"),
        "PAUSE",
        chunk(token(2) + last(3)),
        END,
    ],
    "extensions and trailers": [STREAM + b"%x;a=b\r\n%b\r\n0\r\nx-more: 1\r\n\r\n" % (len(EVENTS), EVENTS)],
    "a length": [PLAIN_HEAD + b"content-length: %d\r\n\r\n%b" % (len(EVENTS), EVENTS)],
    "to the end of the connection": [PLAIN_HEAD + b"\r\n" + EVENTS, "PAUSE", "CLOSE"],
    "closes behind it": [
        STREAM.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + chunk(EVENTS) + END,
        "CLOSE",
    ],
    "cut behind the last event": [STREAM + chunk(EVENTS), "PAUSE", "CLOSE"],
    "reset behind the last event": [STREAM + chunk(EVENTS), "PAUSE", "RESET"],
    "junk behind it": [whole() + b"HTTP/1.1 200 OK\r\n\r\nmore"],
    "junk behind the last event": [STREAM + chunk(EVENTS + token(4)) + END],
    "interim answers": [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + whole()],
    "an interim answer by itself": [b"HTTP/1.1 102 Processing\r\n\r\n", "PAUSE", whole()],
    "a slow head": [STREAM[:20], "PAUSE", STREAM[20:60], "PAUSE", STREAM[60:] + chunk(EVENTS) + END],
    "a large event": [STREAM + chunk(token(1) + token(2, "y" * 300_000) + last(3)) + END],
    "other characters": [
        STREAM + chunk(token(1, " 你好") + token(2, "a\u2028b\x85") + last(3, "你好")) + END
    ],
    "two data lines": [STREAM + chunk(token(1).replace(b"{", b"{\ndata: ", 1) + last(2)) + END],
    "an empty token": [STREAM, chunk(token(1, "")), "PAUSE", chunk(last(2)), END],
    "no id": [
        STREAM,
        chunk(
            event(
                {
                    "index": 1,
                    "token": {"id": None, "text": "a", "logprob": None, "special": False},
                    "generated_text": None,
                    "details": None,
                }
            )
        ),
        "PAUSE",
        chunk(last(2)),
        END,
    ],
    "no details": [
        STREAM
        + chunk(
            token(1)
            + event(
                {
                    "index": 2,
                    "token": {"id": 2, "text": "b", "logprob": 0.0, "special": True},
                    "generated_text": "a",
                    "details": None,
                }
            )
        )
        + END
    ],
}
CLOCKS: dict[str, list[Step]] = {
    "no head": ["HOLD"],
    "head alone": [STREAM, "HOLD"],
    "keep-alives alone": [STREAM, *[chunk(b":\n\n"), 0.15] * 8, "HOLD"],
    "silence after a token": [STREAM, chunk(token(1)), "HOLD"],
    "keep-alives after a token": [STREAM, chunk(token(1)), *[chunk(b":\n\n"), 0.15] * 8, "HOLD"],
    "a refusal without an end": [b"HTTP/1.1 500 I\r\ncontent-length: 20\r\n\r\nno", "HOLD"],
}

BRIEF: dict[str, list[Step]] = {
    "no answer": ["HOLD"],
    "no end": [STREAM, chunk(token(1)), "PAUSE", chunk(token(2)), "HOLD"],
}
forms = pytest.mark.parametrize("form", FORMS)
some_forms = pytest.mark.parametrize("form", ["plain", "native stream"])
other_forms = pytest.mark.parametrize("form", ["native", "stream"])


@forms
@pytest.mark.parametrize("script", GOOD.values(), ids=GOOD)
def test_good_answers(ways: Ways, form: str, script: list[Step]) -> None:
    assert ways.check(form, script).status == 200


@some_forms
@pytest.mark.parametrize("script", REFUSALS.values(), ids=REFUSALS)
def test_refusals(ways: Ways, form: str, script: list[Step]) -> None:
    ways.check(form, script)


@other_forms
@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
def test_answers_that_break_off(ways: Ways, form: str, script: list[Step]) -> None:
    ways.check(form, script)


@some_forms
@pytest.mark.parametrize("script", CLOCKS.values(), ids=CLOCKS)
def test_clocks(ways: Ways, form: str, script: list[Step]) -> None:
    ways.check(form, script, name="hasty")


@other_forms
@pytest.mark.parametrize("script", BRIEF.values(), ids=BRIEF)
def test_the_clock_of_the_whole(ways: Ways, form: str, script: list[Step]) -> None:
    ways.check(form, script, name="brief")


@forms
@pytest.mark.parametrize("first", ["closes", "overloaded", "a head alone", "after a token", "error first"])
def test_another_replica_answers_where_that_is_allowed(ways: Ways, form: str, first: str) -> None:
    """Until something was given to the client; and where nobody can answer, what the last one said."""
    script = {**BROKEN, **REFUSALS}[first]
    ways.check(form, script, name="two", second=[whole()])
    ways.check(form, script, name="two", second=script)
