"""The small parts: records, StatsD lines, events, pages of metrics, options, the knee."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
from documents import REPOSITORY, text_of
from loadtest_samples import record

from loadtest import knee
from loadtest.options import duration, parser
from loadtest.pages import Page, added, final_pages, minus
from loadtest.records import Book, UnreadableRecords, read
from loadtest.statsd import DATAGRAM_BYTES, BadAddress, Reporter, clean, datagrams, parse_address
from loadtest.wire import events, parse, receipt_of


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    first = record(1, gaps_ms=[1.25, 2.5], first_token_ms=3.5, stream=True)
    second = record(2, outcome="refused", status=429, retry_after_s=3.0, attempt=2, error="谁？", receipt={})
    book = Book(tmp_path, "a")
    book.add(second)
    book.close()
    other = Book(tmp_path, "b")
    other.add(first)
    other.close()
    assert read(tmp_path) == [first, second], "all files of a folder, in order of time"


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "records-1.jsonl").write_text('{"at": 1}\n', encoding="utf-8")
    with pytest.raises(UnreadableRecords, match=r"records-1\.jsonl, line 1"):
        read(tmp_path)


def test_tokens_per_second_count_from_the_first_token() -> None:
    assert record(1, gaps_ms=[20.0] * 50).tokens_per_s == pytest.approx(50)
    assert record(1).tokens_per_s is None


class Listening:
    """A socket that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def sendto(self, data: bytes, _: object) -> None:
        self.sent.append(data)


def test_statsd_lines_are_those_that_the_dashboard_reads() -> None:
    listening = Listening()
    reporter = Reporter(("127.0.0.1", 8125), _socket=listening)  # type: ignore[arg-type]
    reporter.add(record(1, first_token_ms=12.5))
    reporter.add(record(2, outcome="failed"))
    reporter.add(record(3, outcome="cut"))
    reporter.flush(users=7)
    lines = b"\n".join(listening.sent).decode().splitlines()
    assert "gw.locust_requests,name=plain_qwen2:2|c" in lines
    assert "gw.locust_failures,name=plain_qwen2:1|c" in lines
    assert "gw.locust_first_token,name=plain_qwen2:12.500|ms" in lines
    assert "gw.locust_users:7|g" in lines
    measured = {"gw_" + re.split("[,:]", line.removeprefix("gw."))[0] for line in lines}
    documented = set(re.findall(r"`(gw_locust_\w+)`", text_of(REPOSITORY / "docs" / "MONITORING.md")))
    assert measured == documented
    listening.sent.clear()
    reporter.flush(users=None)
    assert listening.sent == [], "what was sent is not sent again"


def test_datagrams_stay_below_the_size_that_passes_everywhere() -> None:
    lines = [f"gw.locust_response_time,name=plain_qwen2:{number}.000|ms" for number in range(500)]
    packed = datagrams(lines)
    assert max(map(len, packed)) <= DATAGRAM_BYTES
    assert b"\n".join(packed).decode().splitlines() == lines


def test_names_are_fit_for_tags_and_addresses_are_checked() -> None:
    assert clean("stream qwen2,a:b|c") == "stream_qwen2_a_b_c"
    assert parse_address("telegraf") == ("telegraf", 8125)
    assert parse_address("127.0.0.1:9125") == ("127.0.0.1", 9125)
    for wrong in (":8125", "host:", "host:x"):
        with pytest.raises(BadAddress, match="HOST:PORT"):
            parse_address(wrong)


class Body:
    """What geventhttpclient gives, from bytes."""

    def __init__(self, text: bytes) -> None:
        self._left = text

    def readline(self, sep: bytes = b"\n") -> bytes:
        line, found, self._left = self._left.partition(sep)
        return line + found if found else b""


def test_events_of_the_native_stream_are_read() -> None:
    text = b': loading\n\nevent: token\ndata: {"index":1}\n\nevent: done\ndata: {"a":"\xe4\xbd\xa0"}\n\nhalf'
    found = list(events(Body(text)))
    assert [one.name for one in found] == ["", "token", "done"]
    assert found[2].json() == {"a": "你"}
    assert parse(b"data: 1\ndata: 2\n\n").data == b"12"


def test_a_receipt_is_read_from_headers() -> None:
    headers = {"x-gateway-queue-ms": "1.5", "x-gateway-total-ms": "20", "x-gateway-model": "qwen2"}
    assert receipt_of(headers) == {"queue_ms": 1.5, "total_ms": 20.0}


def test_pages_add_up_and_differ() -> None:
    text = 'a{m="x",s="2xx"} 3\na{m="y",s="2xx"} 4\n# HELP a\nb 1.5\n'
    page = Page.parse(text)
    assert page.sum("a") == 7
    assert page.sum("a", m="x") == 3
    assert page.by("a", "m") == {"x": 3, "y": 4}
    assert added([page, page]).sum("a") == 14
    later = Page.parse('a{m="x",s="2xx"} 10\na{m="z",s="2xx"} 1\n')
    assert minus(later, page).by("a", "m") == {"x": 7, "z": 1}


def test_every_engine_that_ended_is_in_the_file_of_final_counts() -> None:
    text = "# process 12\n# TYPE n counter\nn 3\n# process 13\n# TYPE n counter\nn 4\n"
    assert [page.sum("n") for page in final_pages(text)] == [3, 4]
    assert final_pages("") == []


def test_durations_are_written_as_people_do() -> None:
    assert [duration(text) for text in ("90", "90s", "3m", "1h30m", "1.5m")] == [90, 90, 180, 5400, 90]
    for wrong in ("", "m", "3 m", "-1", "0", "3x"):
        with pytest.raises(ArgumentTypeError):
            duration(wrong)


@pytest.mark.parametrize(
    "wrong", [["--users", "0"], ["--duration", "x"], ["--compare", "a"], ["--engine", "tgi"]], ids=str
)
def test_wrong_options_are_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(wrong)


def test_a_ramp_ends_when_three_steps_brought_nothing() -> None:
    rising = [0, 10, 30, 60, 100, 150]
    assert not knee.saturated(rising)
    assert not knee.saturated([0, 10, 20])
    assert knee.saturated([*rising, 200, 250, 300])


def ramp() -> list[knee.Step]:
    """100 s a step, 10 sources each; the engine answers 4 a second at most, and refuses the rest."""
    records = []
    number = 0
    for step in range(4):
        offered = 2 * (step + 1)
        for k in range(100 * offered):
            number += 1
            admitted = (k % offered) < 4
            outcome = {"outcome": "ok"} if admitted else {"outcome": "refused", "status": 429}
            at = 1000 + 100 * step + k / offered
            records.append(record(number, at=at, total_ms=100.0 * (step + 1), **outcome))
    return knee.steps(records, 1000.0, 100.0, 10)


def test_steps_are_counted_after_they_have_settled() -> None:
    found = ramp()
    assert [step.users for step in found] == [10, 20, 30, 40]
    assert [step.offered for step in found] == pytest.approx([2, 4, 6, 8], rel=0.06)
    assert [step.answered for step in found] == pytest.approx([2, 4, 4, 4], rel=0.08)
    assert [step.refused for step in found] == pytest.approx([0, 0, 2, 4], rel=0.1)


def test_the_knee_is_the_least_load_that_brings_nearly_the_most() -> None:
    assert knee.knee(ramp()).users == 20


def test_who_came_back_is_counted_by_what_became_of_it() -> None:
    told = {"outcome": "refused", "status": 429, "retry_after_s": 2.0}
    found = knee.refusals(
        [
            record(1),
            record(2, **told),
            record(3, attempt=2),
            record(4, **told),
            record(5, attempt=2, **told),
            record(6, attempt=3, **told),
            record(7, **{**told, "outcome": "failed", "retry_after_s": None}),
        ]
    )
    assert (found.first, found.kept, found.second, found.third, found.never) == (2, 2, 1, 0, 1)
    assert (found.told, found.with_retry_after) == (5, 4), "one 429 without Retry-After is seen"
