"""Tokens that pass as the engine wrote them."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import EngineError
from gateway.schemas import Clocks, Completed, Prompt, RawTokens, Token
from gateway.upstream.tgi import TgiEngine

CLOCKS = Clocks(5, 5, 5, 5)
TOKEN = '{"id":7,"text":" 你好","logprob":-0.10,"special":false}'
ONE = f'{{"index":1,"token":{TOKEN},"generated_text":null,"details":null}}'
LAST = ONE.replace('"generated_text":null', '"generated_text":" 你好"')


def chunk(*events: str) -> bytes:
    data = "".join(f"data: {event}\n\n" for event in events).encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


async def pieces(tgi: TgiEngine, url: str, **options: Any) -> list[object]:
    async with tgi.stream(url, Prompt("x"), {}, CLOCKS, **options) as found:
        return [piece async for piece in found]


async def test_tokens_in_the_middle_pass_byte_for_byte(serve: Any, tgi: TgiEngine) -> None:
    async with serve(["STREAM", chunk(ONE, ONE), "PAUSE", chunk(ONE, LAST), "END"]) as engine:
        found = await pieces(tgi, engine.url, raw=True)
    assert found[0] == RawTokens(f"data: {ONE}\n\n".encode() * 2, 2)
    # With the last one in the same batch they are looked into: nothing is lost, and the order is kept.
    assert [type(piece) for piece in found[1:]] == [Token, Token, Completed]
    assert isinstance(found[-1], Completed)
    assert found[-1].completion_tokens == 4


async def test_raw_counts_for_nothing_where_no_tokens_are_wanted(serve: Any, tgi: TgiEngine) -> None:
    async with serve(["STREAM", chunk(ONE), chunk(LAST), "END"]) as engine:
        found = await pieces(tgi, engine.url, raw=True, tokens=False)
    assert [type(piece) for piece in found] == [Completed]


@pytest.mark.parametrize(
    "odd",
    [
        ONE.replace("你好", "a\u2028b"),
        ONE.replace("你好", "a\x85b"),
        "{" + ONE.removeprefix('{"index":1,'),
        ONE.replace('"id":7', '"id":null'),
        ONE.replace("{", "{\n", 1).replace("\n", "\ndata: "),
    ],
    ids=["line separator", "next line", "no index", "no id", "two lines"],
)
async def test_what_is_not_written_as_tgi_does_is_looked_into(serve: Any, tgi: TgiEngine, odd: str) -> None:
    async with serve(["STREAM", chunk(odd), chunk(LAST), "END"]) as engine:
        found = await pieces(tgi, engine.url, raw=True)
    assert [type(piece) for piece in found] == [Token, Token, Completed]


async def test_an_error_after_raw_tokens_is_raised(serve: Any, tgi: TgiEngine) -> None:
    error = '{"error":"CUDA","error_type":"generation"}'
    async with serve(["STREAM", chunk(ONE), "PAUSE", chunk(error), "END"]) as engine:
        with pytest.raises(EngineError, match="CUDA"):
            await pieces(tgi, engine.url, raw=True)
