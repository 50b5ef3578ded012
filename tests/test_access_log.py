"""Access lines that are made without records are those that ``logging`` would have made, and none is lost."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.logs import AccessLog, Alike, JsonLines, TextLines

STYLES = [TextLines, JsonLines]
FIELDS = st.dictionaries(
    st.sampled_from(["request_id", "route", "status", "model", "tokens", "ms", "alias"]),
    st.text(max_size=20) | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.none(),
    min_size=1,
)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, with no handler but those of the test."""
    found = logging.getLogger()
    handlers, level = found.handlers[:], found.level
    found.handlers[:] = []
    found.setLevel(logging.INFO)
    yield found
    found.handlers[:] = handlers
    found.setLevel(level)


def written_to(root: logging.Logger, style: logging.Formatter, stream: Any = None) -> Any:
    stream = io.StringIO() if stream is None else stream
    root.handlers[:] = [one for one in root.handlers if type(one) is logging.StreamHandler]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(style)
    root.addHandler(handler)
    return stream


@pytest.mark.parametrize("style", STYLES)
@given(fields=FIELDS, seconds=st.integers(0, 2**31))
def test_a_line_is_what_the_formatter_makes_of_a_record(
    style: Any, fields: dict[str, Any], seconds: int
) -> None:
    message = "POST /v1/generate 200"
    record = logging.LogRecord("gateway.access", logging.INFO, "", 0, message, (), None)
    record.__dict__.update(fields)
    record.created = seconds
    assert style().line(seconds, "gateway.access", message, fields) == style().format(record)


class Kept(AccessLog):
    """Keeps its lines."""

    def __init__(self, style: TextLines | JsonLines) -> None:
        super().__init__("gateway.test-access")
        self.lines: list[str] = []
        self._given = style

    def wanted(self) -> bool:
        return True

    def style(self) -> TextLines | JsonLines:
        return self._given

    def add(self, line: str) -> None:
        self.lines.append(re.sub(r"\d\d:\d\d:\d\d", "NOW", line))


@pytest.mark.parametrize("style", STYLES)
@given(
    ids=st.lists(st.text(max_size=20), min_size=1, max_size=3),
    model=st.text(max_size=10),
    total_s=st.floats(0, 1e9) | st.integers(0, 10**7).map(lambda us: us / 1_000_000),
    tokens=st.none() | st.integers(0, 2**40),
)
def test_lines_that_are_alike_are_what_they_are_one_by_one(
    style: Any, ids: list[str], model: str, total_s: float, tokens: int | None
) -> None:
    alike, single = Kept(style()), Kept(style())
    pattern = Alike(alike, "POST /generate 200", route="/generate", status="200", model=model)
    for one in ids:
        pattern.write(one, total_s, tokens)
        fields = {"request_id": one, "route": "/generate", "status": "200", "ms": round(1000 * total_s, 1)}
        more = {} if tokens is None else {"tokens": tokens}
        single.write("POST /generate 200", {**fields, "model": model, **more})
    assert alike.lines == single.lines
    assert len(alike.lines) == len(ids)


async def test_lines_that_are_alike_follow_a_change_of_style(root: logging.Logger) -> None:
    log = AccessLog("gateway.test-access")
    pattern = Alike(log, "POST /generate 200", route="/generate", status="200", model="m")
    found = []
    for style in (TextLines(), JsonLines(), logging.Formatter("%(message)s %(ms)s %(tokens)s")):
        stream = written_to(root, style)
        pattern.write("1", 0.25, 3)
        await asyncio.sleep(0)
        found.append(stream.getvalue())
        root.handlers[:] = []
    assert "200  request_id=1 route=/generate status=200 ms=250.0 model=m tokens=3\n" in found[0]
    assert json.loads(found[1])["ms"] == 250.0
    assert found[2] == "POST /generate 200 250.0 3\n"


@pytest.mark.parametrize("style", STYLES)
async def test_lines_come_out_in_their_order_and_each_on_one(root: logging.Logger, style: Any) -> None:
    stream, log = written_to(root, style()), AccessLog("gateway.test-access")
    for number in range(5):
        log.write(f"POST /generate {number}", {"request_id": f"a\nb\r\u2028{number}", "model": "模型"})
    assert stream.getvalue() == ""
    await asyncio.sleep(0)
    lines = stream.getvalue().split("\n")[:-1]
    assert [f"generate {number}" in line for number, line in enumerate(lines)] == [True] * 5
    assert all("模型" in line for line in lines)


async def test_a_higher_level_switches_them_off(root: logging.Logger) -> None:
    stream, log = written_to(root, TextLines()), AccessLog("gateway.test-access")
    root.setLevel(logging.WARNING)
    log.write("POST /generate 200", {"status": "200"})
    await asyncio.sleep(0)
    log.flush()
    assert stream.getvalue() == ""


async def test_elsewhere_logging_gets_them(root: logging.Logger) -> None:
    log = AccessLog("gateway.test-access")
    one, other = written_to(root, TextLines()), written_to(root, logging.Formatter("%(message)s %(status)s"))
    log.write("POST /generate", {"status": "200"})
    assert other.getvalue() == "POST /generate 200\n"
    assert "POST /generate  status=200" in one.getvalue()


class Full(io.StringIO):
    """A disk that is full until it is not."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


async def test_what_cannot_be_written_stops_nobody(root: logging.Logger, capsys: Any) -> None:
    stream, log = written_to(root, TextLines(), Full()), AccessLog("gateway.test-access")
    log.write("POST /generate 1", {"status": "200"})
    await asyncio.sleep(0)
    stream.full = False
    log.write("POST /generate 2", {"status": "200"})
    await asyncio.sleep(0)
    assert [line.split()[4] for line in stream.getvalue().splitlines()] == ["/generate"]
    assert "No space left" in capsys.readouterr().err


async def test_a_stream_that_is_closed_stops_nobody(root: logging.Logger, capsys: Any) -> None:
    stream, log = written_to(root, TextLines()), AccessLog("gateway.test-access")
    stream.close()
    log.write("POST /generate 1", {"status": "200"})
    log.flush()
    assert "closed file" in capsys.readouterr().err


def test_the_clock_of_text_lines_goes_on() -> None:
    style, now = TextLines(), int(time.time())
    lines = [style.line(now + late, "x", "m", {"a": 1})[:8] for late in (0, 0, 1, 0)]
    assert lines[0] == lines[1] == lines[3] != lines[2]
