"""Log lines: one event each, with fields, for people or for machines. Never a prompt."""

from __future__ import annotations

import logging
from typing import Any

from pydantic_core import to_json

_ESCAPES = {
    code: f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}"
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
}
"""What ends a line, or what a terminal obeys, and what is written instead."""

_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",  # uvicorn's, for terminals
}


def configure_logging(level: str, style: str) -> None:
    """Send everything to stderr in one style. ``style`` is ``text`` or ``json``."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if style == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Both repeat, a line for each request, what our own access log says better.
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


def _escaped(text: str) -> str:
    # Whatever has to be escaped cannot be printed, and asking for that costs a fraction of a translation.
    return text if text.isprintable() else text.translate(_ESCAPES)


class TextLines(logging.Formatter):
    """``12:00:01 INFO gateway.access POST /v1/generate 200  model=qwen2 ms=812.4``"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        fields = _escaped(fields)
        return super().formatMessage(record).rstrip() + (f"  {fields}" if fields else "")

    def format(self, record: logging.LogRecord) -> str:
        """Further lines, such as a traceback's, are indented: none can pass for an event of its own."""
        return "\n    ".join(_escaped(line) for line in super().format(record).split("\n"))


class JsonLines(logging.Formatter):
    """One JSON object a line, with the fields of the event at its top level."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # The second time for its values: no field takes the place of what every line has.
        return to_json({**line, **_fields(record), **line}, fallback=str).decode()
