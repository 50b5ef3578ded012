"""Log lines: one event each, with fields, for people or for machines. Never a prompt."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic_core import to_json

_ESCAPES = {
    code: f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}"
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
}
"""What ends a line, or what a terminal obeys, and what is written instead."""

PIPE_BYTES: Final = 4096
"""What Linux writes to a pipe without anything of others in between (PIPE_BUF)."""

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
        self._second, self._clock = -1, ""  # the last one that was written out

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        fields = _escaped(fields)
        return super().formatMessage(record).rstrip() + (f"  {fields}" if fields else "")

    def format(self, record: logging.LogRecord) -> str:
        """Further lines, such as a traceback's, are indented: none can pass for an event of its own."""
        return "\n    ".join(_escaped(line) for line in super().format(record).split("\n"))

    def line(self, seconds: int, name: str, message: str, fields: Mapping[str, object]) -> str:
        """What ``format`` makes of a record of level INFO, without one."""
        told = " ".join([f"{key}={value}" for key, value in fields.items()])
        if seconds != self._second:
            self._second, self._clock = seconds, time.strftime("%H:%M:%S", time.localtime(seconds))
        return _escaped(f"{self._clock} INFO    {name} {message}  {told}")


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

    def line(self, seconds: int, name: str, message: str, fields: Mapping[str, object]) -> str:
        """What ``format`` makes of a record of level INFO, without one."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
        always = {"time": when, "level": "info", "logger": name, "message": message}
        return to_json({**always, **fields, **always}, fallback=str).decode()


def _parts(lines: list[str]) -> Iterator[str]:
    """The lines in parts of which a pipe takes each as a whole: other processes may write to it, too."""
    part: list[str] = []
    size = 0
    for line in lines:
        length = len(line.encode("utf-8", "replace")) + 1
        if part and size + length > PIPE_BYTES:
            yield "\n".join(part) + "\n"
            part, size = [], 0
        part.append(line)
        size += length
    yield "\n".join(part) + "\n"


class AccessLog:
    """A line for each request, with its fields.

    Where lines go out in our own styles, they are made without records, and those of one turn of the event
    loop are written at once: there are as many as requests. Elsewhere ``logging`` gets them.
    """

    def __init__(self, name: str = "gateway.access") -> None:
        self._name: Final = name
        self._logger = logging.getLogger(name)
        self._lines: list[str] = []

    def write(self, message: str, fields: Mapping[str, object]) -> None:
        """Log ``message`` at level INFO. To be called within the event loop."""
        if not self._logger.isEnabledFor(logging.INFO):
            return
        ours = self._ours()
        if ours is None:
            self._logger.info(message, extra=dict(fields))
            return
        _, style = ours
        self._lines.append(style.line(int(time.time()), self._name, message, fields))
        if len(self._lines) == 1:
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write what is there."""
        lines, self._lines = self._lines, []
        ours = self._ours()
        if not lines or ours is None:
            return
        handler, _ = ours
        try:
            with handler.lock or contextlib.nullcontext():
                for part in _parts(lines):
                    handler.stream.write(part)
                    handler.flush()
        except Exception:  # as logging has it: what cannot be logged is no reason to stop
            handler.handleError(self._logger.makeRecord(self._name, logging.INFO, "", 0, lines[0], (), None))

    def _ours(self) -> tuple[logging.StreamHandler[Any], TextLines | JsonLines] | None:
        """The only handler there is, if it has one of our styles."""
        root, own = self._logger.parent, self._logger
        handlers = root.handlers if root is not None else []
        if own.handlers or own.filters or not own.propagate or len(handlers) != 1:
            return None
        handler = handlers[0]
        style = handler.formatter
        if isinstance(handler, logging.StreamHandler) and isinstance(style, TextLines | JsonLines):
            return handler, style
        return None
