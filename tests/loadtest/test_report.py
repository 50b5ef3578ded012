"""Pages from stored results: what they say is what the figures say, in both languages, again and again."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from documents import headings
from loadtest_samples import Scene, record

from loadtest import results
from loadtest.problems import Problem
from loadtest.records import Book, Record
from loadtest.report import pages
from loadtest.report.differences import differences
from loadtest.report.soak_page import trends

MACHINE = {
    "processor": "A processor",
    "cores": 2,
    "memory_bytes": 2**34,
    "system": "Linux 6",
    "python": "3.11",
    "packages": {"locust": "2"},
    "gpus": [],
    "commit": "abc1234",
    "load": [0.1, 0.2, 0.3],
}
OPTIONS = {
    "engine": "calibrated",
    "url": "",
    "speed_scale": 1.0,
    "users": 10,
    "wait_s": 2.0,
    "step": 10.0,
    "step_users": 10,
    "max_queue": 32,
    "rounds": 4,
    "round": 20.0,
}


def sample(at: float, **given: Any) -> dict[str, Any]:
    process = {"cpu_s": at - 1000, "rss": 70 * 2**20, "fds": 40, "sockets": 20, "threads": 1}
    usual = {
        "t": at,
        "requests": {"2xx": at - 1000},
        "tokens_out": 10 * (at - 1000),
        "in_flight": {"qwen2": 3},
        "queued": {"qwen2": 1},
        "state": {"qwen2": "ready"},
        "gateway": process,
        "engines": [process],
        "supervisors": [process],
        "locust": {**process, "cpu_s": 0.1 * (at - 1000)},
        "machine": {"load1": 0.5, "cpu_percent": 40.0, "used": 2**30},
        "gpu": [],
    }
    return {**usual, **given}


@dataclasses.dataclass
class Made:
    """Results of a run that never ran."""

    folder: Path
    kind: str = "run"
    stands: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def part(
        self,
        stand: str,
        name: str,
        records: list[Record],
        seconds: float = 20.0,
        samples: list[dict[str, Any]] | None = None,
    ) -> None:
        """Add a part; the stand is made when it is new."""
        found = next((one for one in self.stands if one["name"] == stand), None)
        if found is None:
            checks = [one.as_json() for one in Scene().checks()]
            found = {"name": stand, "models": [], "checks": checks, "engine_s": {}, "parts": []}
            found |= {"switches": {"qwen2": 2}, "lost_s": {"qwen2": 60.0}}
            self.stands.append(found)
        book = Book(self.folder / stand / name, "1")
        for one in records:
            book.add(one)
        book.close()
        looks = samples or [sample(1000.0 + second) for second in range(int(seconds) + 1)]
        found["parts"].append(
            {
                "name": name,
                "folder": f"{stand}/{name}",
                "users": 20,
                "began": 1000.0,
                "ended": 1000.0 + seconds,
                "samples": looks,
                "missed": 0,
            }
        )

    def saved(self, **head: Any) -> results.Results:
        usual: dict[str, Any] = {"kind": self.kind, "options": OPTIONS, "machine": MACHINE}
        usual |= {"began": 1000.0, "stands": self.stands}
        results.save(self.folder, {**usual, "load_at_the_end": [1.0, 1.0, 1.0], **head})
        return results.load(self.folder)


def answers(rate: int, seconds: int = 20, **given: Any) -> list[Record]:
    """So many a second, evenly."""
    return [record(n, at=1000 + n / rate, **given) for n in range(rate * seconds)]


def whole_run(folder: Path, *, twice: int = 8, slow: float = 1.0) -> Made:
    """All that a run can have. ``twice``: answers a second at twice the load, ``slow`` times as slow."""
    made = Made(folder)
    switched = {
        "queue_ms": 5000.0,
        "load_ms": 31000.0,
        "prefill_ms": 1.0,
        "decode_ms": 1.0,
        "gateway_ms": 1.0,
    }
    waited = record(999, at=1001.0, total_ms=37000.0, receipt={**switched, "total_ms": 36003.0})
    streams = answers(1, kind="stream", stream=True, first_token_ms=200.0, gaps_ms=[20.0] * 9)
    left = record(1000, kind="impatient", outcome="left", tokens=3)
    made.part("all", "all", [*answers(5), *streams, waited, left])
    made.part("all", "alone-qwen2", answers(6))
    ramp = [
        record(n, at=1000 + 10 * step + n / (4 * step + 4), request_id=f"load-{step:08x}{n:08x}")
        for step in range(3)
        for n in range(10 * min(8, 4 * step + 4))
    ]
    made.part("saturation", "ramp", ramp, 30)
    made.part("saturation", "knee", answers(8))
    refused = answers(8, outcome="refused", status=429, retry_after_s=2.0, receipt={})
    back = answers(2, attempt=2)
    made.part("saturation", "twice", [*answers(twice, total_ms=1001 * slow), *refused, *back])
    return made


def text_of(found: results.Results, docs: Path) -> tuple[str, str]:
    pages.write(found, docs)
    name = {"run": "PERFORMANCE_TEST", "soak": "SOAK_TEST", "compare": "COMPARISON_TEST"}[found.kind]
    english = (docs / f"{name}.md").read_text(encoding="utf-8")
    return english, (docs / f"{name}.zh-CN.md").read_text(encoding="utf-8")


def test_the_page_of_a_run_has_everything_and_is_the_same_again(tmp_path: Path) -> None:
    found = whole_run(tmp_path / "run").saved()
    first = text_of(found, tmp_path / "a")
    again = text_of(results.load(tmp_path / "run"), tmp_path / "b")
    assert first == again
    for picture in (tmp_path / "a" / "img").iterdir():
        assert picture.read_bytes() == (tmp_path / "b" / "img" / picture.name).read_bytes(), picture.name
        assert f"img/{picture.name}" in first[0]
        assert f"img/{picture.name}" in first[1]
    english = first[0]
    assert "all of 20 comparisons hold" in english
    assert "1 of 121 answers (0.8 %) had to wait until their model was in" in english
    assert "the longest 36.0 s" in english
    assert "qwen2 alone, without switches: 6.0 answers a second, P99 1.00 s (promised: 4.2 s)" in english
    assert "they were not the limit" in english
    assert "clients were not the limit" in english


def test_both_languages_have_the_same_chapters_tables_and_figures(tmp_path: Path) -> None:
    english, chinese = text_of(whole_run(tmp_path / "run").saved(), tmp_path / "docs")
    assert [level for level, _ in headings(english)] == [level for level, _ in headings(chinese)]
    rows = [
        [re.findall(r"\d[\d.,]*", line) for line in text.splitlines() if line.startswith("|")]
        for text in (english, chinese)
    ]
    for ours, theirs in itertools.zip_longest(*rows):
        assert sorted(theirs) == sorted(ours)
    assert re.findall(r"```console\n(.*?)```", english, re.DOTALL) == re.findall(
        r"```console\n(.*?)```", chinese, re.DOTALL
    )


@pytest.mark.parametrize(
    ("twice", "slow", "said", "unsaid"),
    [
        (8, 1.0, ["within 5 %.", "kept (at most"], ["not within 5 %", "not kept"]),
        (6, 1.0, ["**not within 5 %**"], ["not kept"]),
        (8, 3.0, ["**not kept (more than 1.25 times)**"], []),
    ],
)
def test_a_sentence_says_what_the_figures_say(
    tmp_path: Path, twice: int, slow: float, said: list[str], unsaid: list[str]
) -> None:
    # Two a second of those at twice the load came back and were let in.
    english, _ = text_of(whole_run(tmp_path / "run", twice=twice - 2, slow=slow).saved(), tmp_path / "docs")
    assert [one for one in said if one not in english] == []
    assert [one for one in unsaid if one in english] == []


def test_a_disagreement_is_the_first_thing_that_is_said(tmp_path: Path) -> None:
    made = whole_run(tmp_path / "run")
    made.stands[0]["checks"] = [one.as_json() for one in Scene(engine_tokens=101).checks()]
    found = made.saved()
    english, chinese = text_of(found, tmp_path / "docs")
    assert not found.agreed
    assert "**The counts do not agree, so this run has failed:** qwen2 tokens of whole answers" in english
    assert "**计数不一致，本次运行失败：**" in chinese
    assert "| **no** |" in english


def test_a_crowded_machine_and_a_client_at_its_limit_are_said(tmp_path: Path) -> None:
    made = Made(tmp_path / "run")
    busy = {"load1": 9.0, "cpu_percent": 99.0, "used": 2**30}
    looks = [
        sample(1000.0 + second, machine=busy, locust={**sample(1000.0)["locust"], "cpu_s": 0.95 * second})
        for second in range(21)
    ]
    made.part("all", "all", answers(5), samples=looks)
    english, _ = text_of(made.saved(), tmp_path / "docs")
    assert "**The machine was full:**" in english
    assert "**so the clients were a limit" in english


def soak(folder: Path, growth_per_hour: float) -> results.Results:
    """Half an hour, in which memory grows by so many MiB an hour, and wobbles."""
    made = Made(folder, "soak")
    process = sample(1000.0)["gateway"]
    looks = [
        sample(
            1000.0 + second,
            gateway={
                **process,
                "rss": (70 + growth_per_hour * second / 3600 + 0.05 * (second * 7919 % 11)) * 2**20,
            },
        )
        for second in range(0, 1801, 5)
    ]
    made.part("soak", "soak", answers(1, 1800), 1800, looks)
    return made.saved()


def test_flat_memory_is_said_to_be_flat_and_a_leak_is_found(tmp_path: Path) -> None:
    flat, leak = soak(tmp_path / "flat", 0), soak(tmp_path / "leak", 20)
    assert all(trend.flat for trend in trends(flat.parts[0]))
    memory = trends(leak.parts[0])[0]
    assert memory.per_hour is not None
    assert memory.per_hour.low < 20 < memory.per_hour.high
    assert not memory.flat
    assert "memory of the gateway: flat." in text_of(flat, tmp_path / "a")[0]
    assert "memory of the gateway: **it grows**." in text_of(leak, tmp_path / "b")[0]


def compared(folder: Path, factor: float) -> results.Results:
    """Twelve pairs; B takes ``factor`` times as long. The machine gets slower all the time, for both."""
    made = Made(folder, "compare")
    sides = [("A", "B"), ("B", "A")] * 6
    for number, (pair, side) in enumerate(
        ((pair, side) for pair, both in enumerate(sides, 1) for side in both), 1
    ):
        slower = (1 + 0.0005 * number) * (factor if side == "B" else 1.0)
        times = [1000.0 * slower * (1 + 0.01 * (n % 7)) for n in range(100)]
        records = [record(n, at=1000 + n / 5, total_ms=ms) for n, ms in enumerate(times)]
        made.part(f"{number:02}-{side}", side, records)
        made.stands[-1] |= {"side": side, "pair": pair}
    said = (("A", "left"), ("B", "right"))
    both = [{"letter": letter, "said": name, "kind": "setting"} for letter, name in said]
    return made.saved(sides=both)


def test_two_equal_sides_show_no_difference_and_a_slower_one_shows(tmp_path: Path) -> None:
    equal, slower = compared(tmp_path / "equal", 1.0), compared(tmp_path / "slower", 1.1)
    assert not any(one.percent.clear for one in differences(equal))
    assert "No difference between left and right" in text_of(equal, tmp_path / "a")[0]
    clear = {one.name[0]: one.percent for one in differences(slower) if one.percent.clear}
    assert clear["whole answer P50, ms"].value == pytest.approx(10, abs=0.5)
    english = text_of(slower, tmp_path / "b")[0]
    assert re.search(r"whole answer P50, ms: right has (9\.\d|10\.\d) % more than left", english)


def test_what_holds_no_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="does not hold the results of a run"):
        results.load(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps({"version": 0}), encoding="utf-8")
    with pytest.raises(Problem, match="another version"):
        results.load(tmp_path)
