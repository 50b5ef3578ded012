"""Requests with something lost, doubled, changed or put elsewhere: refused, or answered, as ordinarily."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from harness import Running
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from server_wire.cases import CASES
from server_wire.conftest import Pair
from server_wire.raw import NotWhole, answers_in, comparable, connected

SHORT = sorted({case.sent for case in CASES.values() if len(case.sent) < 1_200 and not case.headless})
ODD = (
    b"\r\n",
    b"\n",
    b"\0",
    b" ",
    b":",
    b"0\r\n\r\n",
    b"HTTP/1.1",
    b"\xff",
    b"Content-Length: 3\r\n",
    b"%0d%0a",
)
ODD += (
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"x-request-id: z\r\n",
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    sent: bytes = draw(st.sampled_from(SHORT))
    for _ in range(draw(st.integers(1, 2))):
        at, to = sorted((draw(st.integers(0, len(sent))), draw(st.integers(0, len(sent)))))
        how = draw(
            st.sampled_from(
                ["put in", "put in", "line lost", "line doubled", "lost", "doubled", "moved", "ends"]
            )
        )
        lines = sent.split(b"\r\n")
        line = draw(st.integers(0, len(lines) - 1))
        if how == "put in":
            sent = sent[:at] + draw(st.sampled_from(ODD)) + sent[at:]
        elif how == "line lost":
            sent = b"\r\n".join(lines[:line] + lines[line + 1 :])
        elif how == "line doubled":
            sent = b"\r\n".join([*lines[:line], lines[line], *lines[line:]])
        elif how == "lost":
            sent = sent[:at] + sent[min(to, at + 20) :]
        elif how == "doubled":
            sent = sent[:to] + sent[at:to] + sent[to:]
        elif how == "moved":
            sent = sent[:at] + sent[to:] + sent[at:to]
        else:
            sent = sent[:to]
    return sent or b"\r\n"


def said(running: Running, sent: bytes, silence_s: float) -> tuple[list[dict[str, Any]], bool, bytes]:
    """Answers, whether it was closed, and what came of an answer that is not whole. What is only a part of a
    request has no answer: nothing more is waited for once nothing has come for a while."""
    raw, closed = b"", False
    with closing(connected(running.url)) as client:
        client.settimeout(silence_s)
        client.sendall(sent)
        try:
            while piece := client.recv(65536):
                raw += piece
            closed = True
        except ConnectionResetError:
            closed = True
        except TimeoutError:
            pass
    try:
        answers, left = answers_in(raw)
    except (AssertionError, KeyError, NotWhole):
        return [], closed, raw  # such as one to a HEAD that came about by chance
    return [comparable(one) for one in answers], closed, left


@given(sent=damaged())
@example(sent=b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n{}")
@example(
    sent=b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: :\t\r\nContent-Length: 2\r\n\r\n{}"
)
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_damaged_request_is_treated_as_ordinarily(pair: Pair, sent: bytes) -> None:
    for silence_s in (0.1, 1.0, 5.0):
        served, ordinary = said(pair.served, sent, silence_s), said(pair.ordinary, sent, silence_s)
        if served == ordinary:
            return
    # Only what two clocks may explain was tried again.
    assert served == ordinary
