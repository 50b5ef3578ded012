"""Who may ask, and from which page: no way around it, and none of it stays for the next request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from harness import Running
from server_wire.cases import BODY, CHAT, Case
from server_wire.conftest import Pair, start_pair
from server_wire.raw import Told, connected, got, posted, told

PAGE = "https://page.example"
KEY = "Authorization: Bearer secret"
LOCKED = {
    "key": Case(posted("/generate", BODY, KEY)),
    "key in Anthropic's header": Case(posted("/v1/generate", BODY, "X-Api-Key: secret")),
    "no key": Case(posted("/generate", BODY), (401,)),
    "no key, chat": Case(posted("/v1/chat/completions", CHAT), (401,)),
    "no key, and no such route": Case(posted("/nowhere", BODY), (401,)),
    "no key, and not JSON": Case(posted("/v1/generate", b"{"), (401,)),
    "wrong key": Case(posted("/generate", BODY, "Authorization: Bearer Secret"), (401,)),
    "other scheme": Case(posted("/generate", BODY, "Authorization: Basic secret"), (401,)),
    "scheme in small letters": Case(posted("/v1/generate", BODY, "authorization: bearer secret")),
    "wrong, then right in the other header": Case(
        posted("/generate", BODY, "Authorization: Bearer x", "x-api-key: secret")
    ),
    "public path": Case(got("/health")),
    "key in the first of two": Case(
        posted("/generate", BODY, KEY) + posted("/generate", BODY) + posted("/v1/generate", BODY, KEY),
        (200, 401, 200),
    ),
    "too large, and no key": Case(posted("/generate", {"inputs": "x" * 150_000}), (401,)),
    "web page with a key": Case(posted("/generate", BODY, KEY, f"Origin: {PAGE}")),
    "other host with a key": Case(posted("/generate", BODY, KEY, "Host: gateway.example")),
}
PAGED = {
    "page that may": Case(posted("/v1/generate", BODY, f"Origin: {PAGE}")),
    "page that may, stream": Case(posted("/generate_stream", BODY, f"Origin: {PAGE}")),
    "page that may, refused": Case(posted("/v1/generate", b"{", f"Origin: {PAGE}"), (400,)),
    "page that may not": Case(posted("/generate", BODY, "Origin: https://evil.example"), (403,)),
    "no page": Case(posted("/generate", BODY)),
    "asks before": Case(
        got("/v1/generate", f"Origin: {PAGE}", "Access-Control-Request-Method: POST", method="OPTIONS")
    ),
    "asks before, and may not": Case(
        got(
            "/generate", "Origin: https://e.example", "Access-Control-Request-Method: POST", method="OPTIONS"
        ),
        (400,),
    ),
}


@pytest.fixture(scope="module")
def paged(engine: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    found = start_pair(tmp_path_factory.mktemp("paged"), engine, cors_origins=PAGE)
    yield found
    found.served.stop()
    found.ordinary.stop()


def asked(running: Running, case: Case) -> Told:
    with closing(connected(running.url)) as client:
        client.sendall(case.sent)
        # With a key, the connection's own test asks for a public path.
        return told(client, len(case.statuses))


def check(pair: Pair, case: Case) -> None:
    served, ordinary = asked(pair.served, case), asked(pair.ordinary, case)
    assert served.comparable == ordinary.comparable
    assert served.statuses == list(case.statuses)
    assert served.closed == ordinary.closed


@pytest.mark.parametrize("case", LOCKED.values(), ids=LOCKED)
def test_key_is_asked_for(locked: Pair, case: Case) -> None:
    check(locked, case)


@pytest.mark.parametrize("case", PAGED.values(), ids=PAGED)
def test_pages_are_let_in_by_name(paged: Pair, case: Case) -> None:
    check(paged, case)
