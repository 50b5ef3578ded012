"""Where the network cuts a request makes no difference to its answer."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import Any

import pytest
from harness import Running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server_wire.cases import CASES, PIPELINED, REFUSED, ROUTES, Case
from server_wire.conftest import Pair
from server_wire.raw import connected, posted, read, taken, told

BATCH = 64
CUT = {
    **{
        name: CASES[name]
        for name in ("tgi", "native stream", "chat", "tgi by model", "health", "messages stream")
    },
    **{name: CASES[name] for name in ("no space behind colons", "encoded path", "absolute form", "trace")},
    **{name: CASES[name] for name in ("extensions and trailers, then a request", "chunks of one byte")},
    **{name: CASES[name] for name in ("hot, ordinary, hot", "wrong, then right", "stream, plain, stream")},
    **{name: CASES[name] for name in ("close", "HTTP/1.0", "expects 100, body sent along")},
    **{
        name: CASES[name] for name in ("HEAD, then a hot request", "GET on a hot route", "wrong content type")
    },
}


def expected(pair: Pair, case: Case) -> list[dict[str, Any]]:
    with closing(connected(pair.ordinary.url)) as client:
        client.sendall(case.sent)
        return told(client, len(case.statuses), case.headless).comparable


@pytest.mark.parametrize("case", CUT.values(), ids=CUT)
def test_request_can_be_cut_at_every_byte(pair: Pair, case: Case) -> None:
    right = expected(pair, case)
    cuts = range(1, len(case.sent))
    for at in range(0, len(cuts), BATCH):
        _cut(pair.served, case, cuts[at : at + BATCH], right)


def _cut(running: Running, case: Case, cuts: range, right: list[dict[str, Any]]) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(connected(running.url))) for _ in cuts]
        for client, cut in zip(clients, cuts, strict=True):
            client.sendall(case.sent[:cut])
        taken(clients)
        for client, cut in zip(clients, cuts, strict=True):
            client.sendall(case.sent[cut:])
        for client, cut in zip(clients, cuts, strict=True):
            found = told(client, len(case.statuses), case.headless)
            assert found.comparable == right, f"cut at {cut}"
            assert found.closed == case.closes, f"cut at {cut}"


@pytest.mark.parametrize(
    "name", ["tgi", "native stream", "extensions and trailers, then a request", "hot, ordinary, hot"]
)
def test_request_can_come_byte_by_byte(pair: Pair, name: str) -> None:
    case = CASES[name]
    with closing(connected(pair.served.url)) as client:
        for at in range(len(case.sent)):
            client.sendall(case.sent[at : at + 1])
            taken([client])
        assert told(client, len(case.statuses)).comparable == expected(pair, case)


KEPT = {**{name: Case(sent) for name, sent in ROUTES.items()}, **{n: CASES[n] for n in REFUSED}, **PIPELINED}
ONE_AFTER_THE_OTHER = sorted(name for name, case in KEPT.items() if not case.closes and "all" not in name)


class TestAnyRow:
    """Requests of all kinds in any order, cut anywhere."""

    right: dict[str, list[dict[str, Any]]]

    @given(names=st.lists(st.sampled_from(ONE_AFTER_THE_OTHER), min_size=2, max_size=6), data=st.data())
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def test_row_is_answered_in_its_order(self, pair: Pair, names: list[str], data: st.DataObject) -> None:
        sent = b"".join(KEPT[name].sent for name in names)
        cuts = sorted(data.draw(st.sets(st.integers(1, len(sent) - 1), max_size=4), label="cuts"))
        right = [answer for name in names for answer in self._right(pair, name)]
        with closing(connected(pair.served.url)) as client:
            for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
                client.sendall(sent[begin:end])
                # A long row of requests is not taken before its first answers are.
                if end < 2_000:
                    taken([client])
            assert told(client, len(right)).comparable == right

    def _right(self, pair: Pair, name: str) -> list[dict[str, Any]]:
        known = self.__class__.__dict__.get("right")
        if known is None:
            known = self.__class__.right = {}
        if name not in known:
            known[name] = expected(pair, KEPT[name])
        found: list[dict[str, Any]] = known[name]
        return found


def test_nobody_gets_what_another_asked_for(pair: Pair) -> None:
    """Fifty connections with four requests each, plain and streamed, all under way at the same time."""

    def word(number: int, place: int) -> str:
        return f"word{number}x{place}"

    paths = ("/generate", "/v1/generate", "/generate_stream", "/v1/chat/completions")

    def sent(number: int) -> bytes:
        row = b""
        for place, path in enumerate(paths):
            text = word(number, place)
            body = {"inputs": f"{text} {text}"}
            if "chat" in path:
                body = {"model": "echo", "messages": [{"role": "user", "content": text}], "temperature": 0}  # type: ignore[dict-item]
            elif path == "/v1/generate":
                body = {**body, "scenario": "raw"}
            row += posted(path, body, f"x-request-id: {text}")
        return row

    with ExitStack() as stack:
        clients = [stack.enter_context(closing(connected(pair.served.url))) for _ in range(50)]
        for number, client in enumerate(clients):
            client.sendall(sent(number))
        for number, client in enumerate(clients):
            for place, answer in enumerate(read(client, len(paths))):
                assert answer.status == 200
                assert answer.header("x-request-id") == word(number, place)
                others = [word(other, at) for other in range(50) for at in range(4)]
                named = {text for text in others if f"{text}" in answer.body.decode()}
                named -= {
                    text for text in named if any(text != longer and text in longer for longer in named)
                }
                assert named <= {word(number, place)}
