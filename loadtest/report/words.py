"""Two languages side by side: whoever changes a sentence sees the other one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Tongue = Literal["en", "zh"]
NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Say:
    """``say("English", "中文")`` gives the one that is being written."""

    tongue: Tongue

    def __call__(self, english: str, chinese: str) -> str:
        return english if self.tongue == "en" else chinese

    @property
    def suffix(self) -> str:
        return ".md" if self.tongue == "en" else ".zh-CN.md"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A table of Markdown; the first ``left`` columns are text, the others numbers."""
    rule = ["---" if index < left else "---:" for index in range(len(head))]
    lines = [head, rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None, digits: int = 0) -> str:
    return NOTHING if value is None else f"{value:,.{digits}f}"


def ms(value: float | None) -> str:
    """Milliseconds with three figures that count."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def seconds(value_ms: float | None) -> str:
    """A time in ms, said in s."""
    if value_ms is None:
        return NOTHING
    value = value_ms / 1000
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def share(part: float, whole: float) -> str:
    return NOTHING if not whole else f"{100 * part / whole:.1f} %"


def size(value: float | None) -> str:
    """Bytes in MiB."""
    return NOTHING if value is None else f"{value / 2**20:,.0f}"


def span(value_s: float) -> str:
    """``90`` → ``90 s``, ``1800`` → ``30 min``."""
    return f"{value_s / 60:g} min" if value_s >= 120 and value_s % 60 == 0 else f"{value_s:g} s"
