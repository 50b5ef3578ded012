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


Pieces = tuple[str, str, str]
"""Of a line: what stands before the request's id, between it and the milliseconds, and behind these."""


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
        return _escaped(f"{self._now(seconds)} INFO    {name} {message}  {told}")

    def pattern(self, name: str, message: str, route: str, status: str, model: str) -> Pieces:
        """What is always the same in lines of these fields, for ``line_like``."""
        begin = _escaped(f" INFO    {name} {message}  request_id=")
        return begin, _escaped(f" route={route} status={status} ms="), _escaped(f" model={model}")

    def line_like(self, pieces: Pieces, seconds: int, request_id: str, ms: str, tokens: int | None) -> str:
        """What ``line`` makes of request_id, route, status, ms, model and, if there are any, tokens."""
        begin, middle, end = pieces
        more = "" if tokens is None else f" tokens={tokens}"
        return f"{self._now(seconds)}{begin}{_escaped(request_id)}{middle}{ms}{end}{more}"

    def _now(self, seconds: int) -> str:
        if seconds != self._second:
            self._second, self._clock = seconds, time.strftime("%H:%M:%S", time.localtime(seconds))
        return self._clock


class JsonLines(logging.Formatter):
    """One JSON object a line, with the fields of the event at its top level."""

    def __init__(self) -> None:
        super().__init__()
        self._second, self._time = -1, ""  # the last one that was written out

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
        always = {"time": self._now(seconds), "level": "info", "logger": name, "message": message}
        return to_json({**always, **fields, **always}, fallback=str).decode()

    def pattern(self, name: str, message: str, route: str, status: str, model: str) -> Pieces:
        """What is always the same in lines of these fields, for ``line_like``."""
        begin = {"level": "info", "logger": name, "message": message}
        middle, end = {"route": route, "status": status}, {"model": model}
        return f'",{_members(begin)},"request_id":', f',{_members(middle)},"ms":', f",{_members(end)}"

    def line_like(self, pieces: Pieces, seconds: int, request_id: str, ms: str, tokens: int | None) -> str:
        """What ``line`` makes of request_id, route, status, ms, model and, if there are any, tokens."""
        begin, middle, end = pieces
        more = "" if tokens is None else f',"tokens":{tokens}'
        told = to_json(request_id).decode()
        return f'{{"time":"{self._now(seconds)}{begin}{told}{middle}{ms}{end}{more}}}'

    def _now(self, seconds: int) -> str:
        if seconds != self._second:
            self._second = seconds
            self._time = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
        return self._time


def _members(fields: Mapping[str, str]) -> str:
    """The inside of an object of JSON."""
    return to_json(fields).decode()[1:-1]


class Alike:
    """Access lines of one route, model and status: most of such a line is made once."""

    __slots__ = ("_log", "_message", "_model", "_pieces", "_route", "_status", "_style")

    def __init__(self, log: AccessLog, message: str, *, route: str, status: str, model: str) -> None:
        self._log = log
        self._message = message
        self._route = route
        self._status = status
        self._model = model
        self._style: TextLines | JsonLines | None = None
        self._pieces: Pieces = ("", "", "")

    def write(self, request_id: str, total_s: float, tokens: int | None) -> None:
        """What ``AccessLog.write`` does with all the fields; ``ms`` are those of ``total_s``."""
        log = self._log
        if not log.wanted():
            return
        style = log.style()
        if style is None:
            log.write(self._message, self._fields(request_id, total_s, tokens))
            return
        if style is not self._style:
            self._style = style
            self._pieces = style.pattern(log.name, self._message, self._route, self._status, self._model)
        # To one digit, as round() has it, and a third of its price.
        ms = format(1000 * total_s, ".1f")
        log.add(style.line_like(self._pieces, int(time.time()), request_id, ms, tokens))

    def _fields(self, request_id: str, total_s: float, tokens: int | None) -> dict[str, object]:
        ms = round(1000 * total_s, 1)
        said = {"request_id": request_id, "route": self._route, "status": self._status, "ms": ms}
        return {**said, "model": self._model, **({} if tokens is None else {"tokens": tokens})}


Ours = tuple[logging.StreamHandler[Any], TextLines | JsonLines]
"""A handler whose lines we write ourselves, and how."""


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
        self.name: Final = name
        self._logger = logging.getLogger(name)
        self._lines: list[str] = []
        self._handler: logging.Handler | None = None  # whose style was looked at last
        self._known: tuple[logging.Formatter | None, Ours | None] = (None, None)

    def write(self, message: str, fields: Mapping[str, object]) -> None:
        """Log ``message`` at level INFO. To be called within the event loop."""
        if not self.wanted():
            return
        style = self.style()
        if style is None:
            self._logger.info(message, extra=dict(fields))
            return
        self.add(style.line(int(time.time()), self.name, message, fields))

    def wanted(self) -> bool:
        """Whether the level lets lines through."""
        return self._logger.isEnabledFor(logging.INFO)

    def style(self) -> TextLines | JsonLines | None:
        """Our own style in which lines go out now; None where ``logging`` has to get them."""
        ours = self._ours()
        return None if ours is None else ours[1]

    def add(self, line: str) -> None:
        """A line in that style."""
        self._lines.append(line)
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
                    handler.stream.flush()
        except Exception:  # as logging has it: what cannot be logged is no reason to stop
            handler.handleError(self._logger.makeRecord(self.name, logging.INFO, "", 0, lines[0], (), None))

    def _ours(self) -> Ours | None:
        """The only handler there is, if it has one of our styles."""
        logger = self._logger
        if logger.filters:
            return None
        while logger.parent is not None:  # there may be a logger for the package, too
            if logger.handlers or not logger.propagate:
                return None
            logger = logger.parent
        if len(logger.handlers) != 1:
            return None
        handler = logger.handlers[0]
        if handler is not self._handler or handler.formatter is not self._known[0]:
            self._handler, self._known = handler, (handler.formatter, _ours(handler))
        return self._known[1]


def _ours(handler: logging.Handler) -> Ours | None:
    style = handler.formatter
    if isinstance(handler, logging.StreamHandler) and isinstance(style, TextLines | JsonLines):
        return handler, style
    return None
