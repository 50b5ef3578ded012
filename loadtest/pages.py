"""Pages of ``/metrics``: the gateway's and the engines'."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_LINE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_PROCESS = re.compile(r"^# process \d+$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sample:
    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Page:
    """What one page says."""

    samples: tuple[Sample, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Page:
        return cls(tuple(_samples(text)))

    def sum(self, name: str, **labels: str) -> float:
        """Over all series of a name with these labels; 0 where there is none."""
        return sum(sample.value for sample in self._of(name, labels))

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The same, by the values of one label."""
        found: dict[str, float] = {}
        for sample in self._of(name, labels):
            value = sample.labels.get(label, "")
            found[value] = found.get(value, 0.0) + sample.value
        return found

    def _of(self, name: str, labels: Mapping[str, str]) -> Iterator[Sample]:
        for sample in self.samples:
            if sample.name == name and all(sample.labels.get(k) == v for k, v in labels.items()):
                yield sample


def _samples(text: str) -> Iterator[Sample]:
    for line in text.splitlines():
        if (match := _LINE.match(line)) is not None:
            labels = dict(_LABEL.findall(match[2] or ""))
            yield Sample(match[1], labels, float(match[3]))


def added(pages: Iterable[Page]) -> Page:
    """Counts of several processes as one page: sums see no difference."""
    return Page(tuple(sample for page in pages for sample in page.samples))


def minus(after: Page, before: Page) -> Page:
    """What was counted between two readings of one page."""
    known = {(s.name, tuple(sorted(s.labels.items()))): s.value for s in before.samples}
    return Page(
        tuple(
            Sample(s.name, s.labels, s.value - known.get((s.name, tuple(sorted(s.labels.items()))), 0.0))
            for s in after.samples
        )
    )


def final_pages(text: str) -> list[Page]:
    """The blocks of a file that engines wrote at their ends (``--final-metrics``)."""
    return [Page.parse(block) for block in _PROCESS.split(text)[1:]]
