from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.sse import (
    SseComment,
    SseDecoder,
    SseEvent,
    SseOverflow,
    encode_comment,
    encode_data,
    encode_event,
)


def decode(*chunks: bytes) -> list[SseEvent | SseComment]:
    decoder = SseDecoder()
    return [found for chunk in chunks for found in decoder.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: x\n\n", [SseEvent(b"x")]),
        (b"data:x\n\n", [SseEvent(b"x")]),
        (b"data:  x \n\n", [SseEvent(b" x ")]),
        (b"data: x\r\n\r\n", [SseEvent(b"x")]),
        (b"data: x\r\r", [SseEvent(b"x")]),
        (b"data: a\r\ndata: b\r\n\r\n", [SseEvent(b"a\nb")]),
        (b"data: a\rdata: b\r\r", [SseEvent(b"a\nb")]),
        (b"data: x\r\n\ndata: y\n\r\n", [SseEvent(b"x"), SseEvent(b"y")]),
        (b"data: a\ndata:\ndata: b\n\n", [SseEvent(b"a\n\nb")]),
        (b"data\n\n", [SseEvent(b"")]),
        (b"data:\n\n", [SseEvent(b"")]),
        (b"\xef\xbb\xbfdata: x\n\n", [SseEvent(b"x")]),
        (b"data: x\n\n\xef\xbb\xbfdata: y\n\n", [SseEvent(b"x")]),
        (b":\n\n", [SseComment("")]),
        (b": loading qwen2\n\ndata: x\n\n", [SseComment("loading qwen2"), SseEvent(b"x")]),
        (b"data: a\n:\ndata: b\n\n", [SseComment(""), SseEvent(b"a\nb")]),
        (b"event: done\nid: 7\nretry: 1500\ndata: x\n\n", [SseEvent(b"x", "done", "7", 1500)]),
        (b"event: done\ndata: x\n\ndata: y\n\n", [SseEvent(b"x", "done"), SseEvent(b"y")]),
        (b"event: lonely\n\ndata: y\n\n", [SseEvent(b"y")]),
        (b"event:\ndata: x\n\n", [SseEvent(b"x")]),
        (b"id: a\0b\nretry: soon\nmade-up: z\ndata: x\n\n", [SseEvent(b"x")]),
        (b"data: x\n", []),
        (b"data: cut of", []),
        (b"\n\n\r\n", []),
        (b"", []),
        ("data: 你好\u2028\x0b\x85\n\n".encode(), [SseEvent("你好\u2028\x0b\x85".encode())]),
    ],
)
def test_a_stream_decodes_as_the_standard_says(stream: bytes, expected: list[object]) -> None:
    assert decode(stream) == expected
    # The same, however the network cuts it.
    assert decode(*(stream[at : at + 1] for at in range(len(stream)))) == expected


def test_an_event_is_reported_with_its_last_byte_also_after_a_lone_carriage_return() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: x\r") == []
    assert decoder.feed(b"\r") == [SseEvent(b"x")]
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"data: y\n\n") == [SseEvent(b"y")]


_LINES = st.sampled_from(
    [
        b"data: x",
        b"data:y",
        b"data",
        b":",
        b": c",
        b"event: e",
        b"id: 1",
        b"retry: 2",
        b"",
        b"",
        b"\xef\xbb\xbf",
        b"z",
    ]
)
_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(st.tuples(_LINES, _ENDS)), st.data())
def test_where_the_bytes_are_cut_makes_no_difference(
    lines: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(line + end for line, end in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    chunks = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert decode(*chunks) == decode(stream)


@given(st.lists(st.binary()))
def test_no_bytes_break_the_decoder(chunks: list[bytes]) -> None:
    decode(*chunks)


@given(st.binary(), st.sampled_from(["message", "token", "完成"]))
def test_what_is_encoded_decodes_to_the_same(data: bytes, name: str) -> None:
    unified = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert decode(encode_data(data)) == [SseEvent(unified)]
    assert decode(encode_event(name, data)) == [SseEvent(unified, name)]


@given(st.text())
def test_a_comment_never_becomes_data(text: str) -> None:
    found = decode(encode_comment(text), encode_data(b"x"))
    assert all(isinstance(one, SseComment) for one in found[:-1])
    assert found[-1] == SseEvent(b"x")


def test_encoders_write_the_bytes_that_clients_know() -> None:
    assert encode_data(b'{"a":1}') == b'data: {"a":1}\n\n'
    assert encode_event("done", b"{}") == b"event: done\ndata: {}\n\n"
    assert encode_comment() == b":\n\n"
    assert encode_comment("loading qwen2 …") == ": loading qwen2 …\n\n".encode()
    assert encode_comment("a\r\ndata: no") == b": a\n: data: no\n\n"


def test_an_event_name_of_two_lines_is_refused() -> None:
    with pytest.raises(ValueError, match="one line"):
        encode_event("a\ndata: b", b"")


@pytest.mark.parametrize(
    "chunks",
    [
        [b"data: " + b"x" * 200 + b"\n"],
        [b"data: xxxxxxxxx"] * 20,
        [b"data: xxxxxxxxx\n"] * 20,
        [b"data:\n"] * 200,
        [b"x" * 60, b"x" * 60],
        [b": " + b"x" * 200],
    ],
    ids=["one chunk", "line in pieces", "many lines", "many empty lines", "no field", "comment"],
)
def test_an_event_over_the_limit_is_refused(chunks: list[bytes]) -> None:
    decoder = SseDecoder(max_bytes=100)

    def feed_all() -> None:
        for chunk in chunks:
            decoder.feed(chunk)

    with pytest.raises(SseOverflow, match="100 bytes"):
        feed_all()


def test_the_limit_is_for_one_event_and_not_for_the_stream() -> None:
    decoder = SseDecoder(max_bytes=100)
    assert sum(len(decoder.feed(b"data: 0123456789\n\n:\n\n")) for _ in range(100)) == 200


_WHOLE = [b"data: x\n\n", b"data:x\n\n", b"data:  y\n\n", b"data: a\ndata: b\n\n", b"data: \n\n", b": c\n\n"]
_PARTS = [
    b"event: n\n",
    b"id: 1\n\n",
    b"data: x\r\n\r\n",
    b"\n",
    b"\r",
    b"data: ",
    b"\n\n",
    b"\xef\xbb\xbf",
    *_WHOLE,
]


@given(st.lists(st.lists(st.sampled_from(_PARTS), max_size=5).map(b"".join), max_size=6))
def test_the_data_alone_is_the_data_of_the_events(chunks: list[bytes]) -> None:
    both, alone = SseDecoder(), SseDecoder()
    for chunk in chunks:
        events = [found.data for found in both.feed(chunk) if isinstance(found, SseEvent)]
        assert alone.data(chunk) == events


def test_data_that_comes_at_once_is_bounded_too() -> None:
    decoder = SseDecoder(max_bytes=100)
    assert decoder.data(b"data: x\n\n" * 20) == [b"x"] * 20
    with pytest.raises(SseOverflow):
        decoder.data(b"data: " + b"x" * 101 + b"\n\n")
