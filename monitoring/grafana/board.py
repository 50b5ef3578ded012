"""What a dashboard is made of. Plain data: nothing here knows Grafana."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")

Kind = Literal["lines", "stack", "bars", "number", "states", "gauges"]
Reduce = Literal["mean", "lastNotNull", "sum", "max"]

GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE, GREY = (
    "green",
    "yellow",
    "orange",
    "red",
    "blue",
    "purple",
    "#808080",
)


@dataclass(frozen=True, slots=True)
class Text:
    """The same words in both languages."""

    en: str
    zh: str

    def of(self, language: Language) -> str:
        return self.en if language == "en" else self.zh


@dataclass(frozen=True, slots=True)
class Target:
    """One query of a panel. ``alias`` names its series; ``$tag_model`` stands for the tag's value."""

    query: str
    alias: Text


@dataclass(frozen=True, slots=True)
class Level:
    """From ``value`` on, this colour. None: from the lowest."""

    value: float | None
    colour: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One panel: a question an operator asks, and the series that answer it."""

    title: Text
    about: Text
    kind: Kind
    unit: str
    targets: tuple[Target, ...]
    width: int = 12
    height: int = 8
    levels: tuple[Level, ...] = ()
    """Thresholds. In ``lines`` they are dashed; a ``number`` takes its colour from them."""
    reduce: Reduce = "mean"
    minimum: float | None = 0
    maximum: float | None = None
    decimals: int | None = None
    colours: Mapping[str, str] = field(default_factory=dict)
    """Fixed colours: regular expression over series names to colour."""
    tint: str | None = None
    """Shades of one colour for all series, where every one of them is bad news."""
    names: Mapping[int, tuple[Text, str]] = field(default_factory=dict)
    """For ``states``: value to its name and colour."""


@dataclass(frozen=True, slots=True)
class Section:
    """A row of panels under one heading."""

    title: Text
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard."""

    slug: str
    title: Text
    about: Text
    sections: tuple[Section, ...]
    variables: tuple[str, ...] = ("model", "host", "interval")
    since: str = "now-1h"
    refresh: str = "10s"
    retention: str = "raw"

    @property
    def figures(self) -> Iterator[Figure]:
        for section in self.sections:
            yield from section.figures

    def uid(self, language: Language) -> str:
        return f"gw-{self.slug}" + ("" if language == "en" else f"-{language}")


def levels(start: str, *steps: tuple[float, str]) -> tuple[Level, ...]:
    """``levels(GREEN, (1, YELLOW), (5, RED))``"""
    return (Level(None, start), *(Level(value, colour) for value, colour in steps))
