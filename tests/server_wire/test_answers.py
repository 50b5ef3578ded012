"""Whatever a client sends, the gateway answers as its application behind plain uvicorn does."""

from __future__ import annotations

from contextlib import closing

import pytest
from harness import Running
from server_wire.cases import BODY, CASES, ROUTES, Case
from server_wire.conftest import Pair
from server_wire.raw import Told, comparable, connected, posted, read, told


def asked(running: Running, case: Case) -> Told:
    with closing(connected(running.url)) as client:
        client.sendall(case.sent)
        return told(client, len(case.statuses), case.headless)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_answers_are_those_of_the_ordinary_way(pair: Pair, case: Case) -> None:
    served, ordinary = asked(pair.served, case), asked(pair.ordinary, case)
    assert served.comparable == ordinary.comparable
    assert served.closed == ordinary.closed == case.closes
    assert served.statuses == list(case.statuses)


@pytest.mark.parametrize("path", ["/generate", "/v1/generate", "/v1/render", "/generate_stream"])
def test_client_that_waits_for_100_gets_it_before_its_body(pair: Pair, path: str) -> None:
    sent = posted(path, BODY if "render" not in path else {"inputs": "one"}, "Expect: 100-continue")
    begin = sent.index(b"\r\n\r\n") + 4
    found = []
    for running in (pair.served, pair.ordinary):
        with closing(connected(running.url)) as client:
            client.sendall(sent[:begin])
            assert [(one.status, one.headers) for one in read(client, 1)] == [(100, ())]
            client.sendall(sent[begin:])
            found.append(told(client, 1))
    assert found[0].statuses == [200]
    assert found[0].comparable == found[1].comparable


def test_client_that_waits_for_100_is_refused_without_it(locked: Pair) -> None:
    """Its body would be for nothing."""
    sent = posted("/generate", BODY, "Expect: 100-continue")
    with closing(connected(locked.served.url)) as client:
        client.sendall(sent[: sent.index(b"\r\n\r\n") + 4])
        assert [one.status for one in read(client, 1)] == [401]


def test_connection_takes_one_request_after_the_other(pair: Pair) -> None:
    right = {name: asked(pair.ordinary, Case(sent)).comparable[0] for name, sent in ROUTES.items()}
    with closing(connected(pair.served.url)) as client:
        for name in [*ROUTES] * 3:
            client.sendall(ROUTES[name])
            assert [comparable(one) for one in read(client, 1)] == [right[name]]
