"""Texts cut out of TGI's bytes are those that are read token by token."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import from_json, to_json
from server_wire.played import token

from gateway.answers import Answer, Receipt
from gateway.api.reading import Ended, Reader, Said
from gateway.config import ModelSpec
from gateway.fastpath.text_wish import TextWish
from gateway.fastpath.wishes import Enough
from gateway.preparing import GenerationRequest, Prepared
from gateway.schemas import Prompt, RawTokens, Token

SPEC = ModelSpec(id="m", family="chatml", url="http://127.0.0.1:1")  # type: ignore[arg-type]
ASKED = GenerationRequest(model="m", inputs="x", messages=None, parameters={}, started=0.0, stream=True)
ANSWER = Answer("m", "", "length", 1, 1, None, Receipt(0, 0, 0, 0, 0, 0))


def by_tokens(prepared: Prepared, texts: Sequence[str]) -> tuple[str, int | None]:
    """What is shown on the ordinary way, and how many tokens it takes until there is enough."""
    reader, shown = Reader(streams=True), ""
    reader.answered_by(prepared)
    for number, text in enumerate(texts, 1):
        one = Token(text, 7, -0.5, special=False)
        said = reader.token(one)
        shown += "" if said is None else said.text
        if reader.has_enough(one):
            return shown, number
    return shown + "".join(piece.text for piece in reader.end(ANSWER) if isinstance(piece, Said)), None


def a_line(text: bytes) -> bytes:
    return text + b"\n"


def written(piece: Said | Ended) -> bytes:
    return b"" if isinstance(piece, Ended) else a_line(to_json(piece.text))


def in_bytes(wish: TextWish, batches: Sequence[Sequence[str]]) -> tuple[str, int | None]:
    """The same on the fast path."""
    said, enough = b"", None
    try:
        for batch in batches:
            events = [token(text) for text in batch]
            one = len(events) == 1
            said += wish.passed(events[0]) if one else wish.chunk(RawTokens(b"".join(events), len(events)))
        said += wish.last(ANSWER)
    except Enough as end:
        said, enough = said + end.chunk, end.tokens
    lines = said.split(b"\n")[:-1]
    assert b'""' not in lines, "an empty chunk would end an answer"
    return "".join(from_json(line) for line in lines), enough


TEXTS = st.text('ab<|im_end>\n"\\ 你好\u2028', max_size=6) | st.sampled_from(["<|im_end|>", "<|im", "x"])


@given(
    batches=st.lists(st.lists(TEXTS, min_size=1, max_size=3), max_size=8),
    own=st.lists(st.text('ab<|\n"你', min_size=1, max_size=3), max_size=3),
)
@settings(max_examples=500, deadline=None)
def test_any_text_is_the_same_and_ends_at_the_same_token(batches: list[list[str]], own: list[str]) -> None:
    prepared = Prepared(SPEC, Prompt("", ("<|im_end|>",)), {"stop": own})
    wish = TextWish(ASKED, Reader(streams=True), a_line, written)
    wish.answered_by(prepared)
    assert in_bytes(wish, batches) == by_tokens(prepared, [text for batch in batches for text in batch])
