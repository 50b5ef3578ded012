"""Heads that are remembered: nothing is ever taken for something that it is not."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fastpath.heads import MOST_BYTES, MOST_DIGITS, MOST_HEADS, Heads, Known

START = b"POST /generate HTTP/1.1\r\n"
HOST = b"Host: localhost\r\n"


def request(body: bytes, *, before: bytes = HOST, behind: bytes = b"", length: bytes | None = None) -> bytes:
    said = b"%d" % len(body) if length is None else length
    return b"%b%bContent-Length: %b\r\n%b\r\n%b" % (START, before, said, behind, body)


def known(data: bytes) -> Known:
    """What the parser makes of a request."""
    read = parsed(data)
    return Known(read.url, read.url.decode(), dict(read.headers), keep_alive=True, request_id=None, trace={})


class Read:
    """A request, taken apart by the parser that the gateway's connections have."""

    def __init__(self) -> None:
        self.url = self.body = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.whole = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.whole += 1


def parsed(data: bytes) -> Read:
    read = Read()
    httptools.HttpRequestParser(read).feed_data(data)
    return read


def learnt(data: bytes, body: bytes) -> Heads:
    heads = Heads()
    heads.learn(data, body, known(data))
    return heads


def test_the_same_head_is_known_with_another_body() -> None:
    heads = learnt(request(b"one"), b"one")
    found = heads.find(request(b"another one"))
    assert found is not None
    assert found[0].headers[b"host"] == b"localhost"
    assert found[1] == b"another one"


@pytest.mark.parametrize(
    ("said", "body"),
    [
        (b"4", b"one"),
        (b"2", b"one"),
        (b"+3", b"one"),
        (b" 3", b"one"),
        (b"3 ", b"one"),
        (b"\t3", b"one"),
        (b"0x3", b"one"),
        (b"3,3", b"one"),
        (b"", b"one"),
        (b"-3", b"one"),
        ("٣".encode(), b"one"),
        (b"00000000030", b"one"),  # thirty, although its first ten digits say three
        (b"3" + 5000 * b"0", b"one"),
        (b"3\r\nContent-Length: 4", b"one"),
        (b"3\r\nTransfer-Encoding: chunked", b"one"),
        (b"3\r\n 4", b"one"),
        (b"3\n", b"one"),
        (b"3\nContent-Length: 4", b"one"),
    ],
)
def test_a_length_that_is_not_exactly_that_of_the_body_is_left_to_the_parser(
    said: bytes, body: bytes
) -> None:
    heads = learnt(request(b"one"), b"one")
    assert heads.find(request(body, length=said)) is None


def test_the_most_digits_of_a_length_are_read_whole() -> None:
    heads = learnt(request(b"one"), b"one")
    assert heads.find(request(b"one", length=b"3".zfill(MOST_DIGITS))) is not None
    assert heads.find(request(b"one", length=b"3".zfill(MOST_DIGITS + 1))) is None


@pytest.mark.parametrize(
    "data",
    [
        request(b"one")[:-1],
        request(b"one") + b"x",
        request(b"one") + request(b"two"),
        b"\r\n" + request(b"one"),
        request(b"one").replace(b"Host", b"host"),
        request(b"one").replace(b"POST", b"PUT"),
        request(b"one", before=HOST + b"X: ength: 3\r\n"),
        request(b"one", behind=b"X: 1\r\n"),
        request(b"one").replace(b"\r\n", b"\n"),
        b"",
        b"\r\n\r\n",
        b"ength: 3\r\n\r\none",
    ],
)
def test_other_bytes_are_not_known(data: bytes) -> None:
    assert learnt(request(b"one"), b"one").find(data) is None


def test_a_body_may_look_like_a_head() -> None:
    body = b"\r\n\r\nContent-Length: 5\r\n\r\n"
    found = learnt(request(b"one"), b"one").find(request(body))
    assert found is not None
    assert found[1] == body


@pytest.mark.parametrize(
    "before",
    [
        HOST + b"X-Strength: 3\r\n",
        HOST + b"X: content-length: 3\r\n",
        HOST + b"X: a\r\n content-length: 3\r\n",
    ],
)
def test_what_only_looks_like_a_length_is_none(before: bytes) -> None:
    data = request(b"one", before=before)
    try:
        heads = learnt(data, b"one")
    except httptools.HttpParserError:
        return  # nobody could learn it
    assert heads.find(data) is None


@pytest.mark.parametrize("at", range(1, len(request(b"one")) - 3))
def test_the_second_part_of_a_head_teaches_nothing(at: int) -> None:
    """Its first part may hold a key: whoever sent the second part alone would be taken for its owner."""
    data = request(b"one", before=HOST + b"Authorization: Bearer secret\r\n")
    at = min(at, data.index(b"\r\n\r\n"))
    heads = Heads()
    heads.learn(data[at:], b"one", known(data))
    assert heads.find(data[at:]) is None


def test_what_stands_in_front_of_a_head_teaches_nothing() -> None:
    data = request(b"one")
    heads = Heads()
    heads.learn(b"the rest of a body" + data, b"one", known(data))
    assert heads.find(b"the rest of a body" + data) is None


def test_an_id_or_a_trace_is_of_one_request() -> None:
    data, read = request(b"one"), known(request(b"one"))
    for once in (
        Known(read.url, read.path, read.headers, keep_alive=True, request_id="7", trace={}),
        Known(
            read.url, read.path, read.headers, keep_alive=True, request_id=None, trace={"traceparent": "0"}
        ),
    ):
        heads = Heads()
        heads.learn(data, b"one", once)
        assert heads.find(data) is None


def test_no_more_is_kept_than_is_of_use() -> None:
    heads = Heads()
    for number in range(MOST_HEADS + 1):
        data = request(b"one", behind=b"X: %d\r\n" % number)
        heads.learn(data, b"one", known(data))
    assert heads.find(data) is not None
    assert heads.find(request(b"one", behind=b"X: 0\r\n")) is None
    large = request(b"one", behind=b"X: %b\r\n" % (MOST_BYTES * b"x"))
    heads.learn(large, b"one", known(large))
    assert heads.find(large) is None


NAMES = st.sampled_from(
    [b"X", b"X-Strength", b"Content-Length", b"content-length", b"Transfer-Encoding", b"A"]
)
VALUES = st.sampled_from(
    [b"3", b"03", b"0", b"+3", b"3, 3", b"chunked", b"ength: 3", b"content-length: 3", b"", b"a\tb", b"12"]
)
LINES = st.lists(
    st.tuples(
        NAMES,
        st.sampled_from([b": ", b":", b":  ", b":\t", b" : "]),
        VALUES,
        st.sampled_from([b"\r\n", b"\n"]),
    ),
    max_size=4,
)
BODIES = st.sampled_from([b"", b"one", b"two", b"\r\n\r\n", b"Content-Length: 3\r\n\r\none", b"twelve bytes"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    lines = b"".join([b"".join(line) for line in draw(LINES)])
    return START + HOST + lines + b"\r\n" + draw(BODIES)


@given(st.lists(requests(), min_size=1, max_size=8), st.data())
def test_whatever_is_known_is_what_the_parser_makes_of_it(sent: list[bytes], data: st.DataObject) -> None:
    heads = Heads()
    for one in sent:
        try:
            read = parsed(one)
        except httptools.HttpParserError:
            continue
        if read.whole == 1 and len(dict(read.headers)) == len(read.headers):
            heads.learn(one, read.body, known(one))
    for one in [*sent, data.draw(requests())]:
        found = heads.find(one)
        if found is not None:
            read = parsed(one)
            assert read.whole == 1
            assert found[1] == read.body
            lengths = {name: value for name, value in read.headers if name != b"content-length"}
            assert {n: v for n, v in found[0].headers.items() if n != b"content-length"} == lengths
