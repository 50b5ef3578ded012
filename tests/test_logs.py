"""Log lines: one event each, whatever is in its fields."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from gateway.logs import JsonLines, TextLines


def record(message: str, **fields: Any) -> logging.LogRecord:
    found = logging.LogRecord("gateway.test", logging.WARNING, __file__, 1, message, (), None)
    found.__dict__.update(fields)
    return found


@pytest.mark.parametrize("where", ["message", "field"])
@pytest.mark.parametrize(
    ("character", "shown"),
    [("\x1b", "\\x1b"), ("\r", "\\x0d"), ("\x85", "\\x85"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029")],
)
def test_control_characters_are_written_out(character: str, shown: str, where: str) -> None:
    text = f"a{character}b"
    line = TextLines().format(record(text) if where == "message" else record("said", what=text))

    assert character not in line
    assert f"a{shown}b" in line


def test_no_further_line_passes_for_an_event() -> None:
    error = ValueError("first\n12:00:01 INFO    forged \x1b[2J")
    failed = record("failed\n12:00:01 INFO    forged", what="a\n12:00:01 INFO    forged")
    failed.exc_info = (ValueError, error, None)

    first, *further = TextLines().format(failed).split("\n")

    assert first.endswith("WARNING gateway.test failed")
    assert all(line.startswith("    ") for line in further)
    assert "\x1b" not in "".join(further)


def test_no_field_takes_the_place_of_what_every_line_has() -> None:
    said = record("true", level="fake", time="fake", logger="fake", model="qwen2")
    line = json.loads(JsonLines().format(said))

    assert (line["message"], line["level"], line["logger"], line["model"]) == (
        "true",
        "warning",
        "gateway.test",
        "qwen2",
    )
    assert line["time"] != "fake"
