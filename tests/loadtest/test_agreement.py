"""Counts agree exactly, or the run has failed: every kind of disagreement is planted and found."""

from __future__ import annotations

from typing import Any

import pytest
from loadtest_samples import MODEL, Scene, record

from loadtest.agreement import Counted, check


def test_a_run_in_which_everybody_counted_the_same_agrees() -> None:
    scene = Scene()
    assert scene.wrong() == set()
    compared = {one.what for one in scene.checks()}
    assert {"requests", "each_once", "2xx", "left", "tokens"} <= compared
    assert {"engine_requests", "engine_answers", "engine_tokens"} <= compared


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ({"locust_requests": 12}, {"requests"}),
        ({"statuses": {"2xx": 9, "left": 1}}, {"requests", "2xx"}),
        ({"statuses": {"2xx": 11, "left": 1}}, {"requests", "2xx", "left"}),
        ({"statuses": {"2xx": 10, "5xx": 1, "left": 1}}, {"requests", "5xx", "left"}),
        ({"statuses": {"2xx": 10, "left": 2}}, {"requests", "left"}),
        ({"tokens_out": 102}, {"tokens"}),
        ({"tokens_out": 111}, {"tokens"}),
        ({"engine_success": 9}, {"engine_requests", "engine_answers"}),
        ({"engine_dropped": 2}, {"engine_requests"}),
        ({"engine_tokens": 99}, {"engine_tokens"}),
        ({"engine_tokens": 101}, {"engine_tokens"}),
    ],
    ids=lambda value: (
        str(value) if isinstance(value, dict) else ""
    ),  # a set has another order in every process
)
def test_a_count_that_is_off_by_one_is_found(planted: dict[str, Any], found: set[str]) -> None:
    assert Scene(**planted).wrong() == found


def test_a_request_that_a_client_does_not_know_is_found_in_the_log() -> None:
    scene = Scene()
    scene.logged = dict.fromkeys((one.request_id for one in scene.records), 1)
    scene.logged["load-00000000000000ff"] = 1
    assert scene.wrong() == {"each_once"}


def test_a_request_that_was_answered_twice_is_found_in_the_log() -> None:
    scene = Scene()
    scene.logged = dict.fromkeys((one.request_id for one in scene.records), 1)
    scene.logged[scene.records[0].request_id] = 2
    assert scene.wrong() == {"each_once"}


def test_who_leaves_as_the_last_token_comes_is_answered_for_the_gateway_and_gone_for_itself() -> None:
    scene = Scene(statuses={"2xx": 11}, ok=11, streaming=0, tokens_out=110)
    scene.engine_success, scene.engine_dropped, scene.engine_tokens = 11, 0, 110
    assert scene.wrong() == set()
    (left,) = [one for one in scene.checks() if one.what == "left"]
    assert left.sides["answered_anyway"] == 1


def test_nobody_who_stayed_can_be_explained_by_one_who_left() -> None:
    scene = Scene(statuses={"2xx": 12}, ok=12, streaming=0)
    assert {"requests", "2xx"} <= scene.wrong()


def test_what_was_cut_off_before_it_was_sent_is_nobodys_request() -> None:
    scene = Scene()
    known = dict.fromkeys((one.request_id for one in scene.records), 1)
    scene.records.append(record(11, outcome="cut", status=0, tokens=0, receipt={}))
    scene.logged = known
    assert scene.wrong() == set()


def test_an_answer_that_never_came_is_a_disagreement() -> None:
    scene = Scene(locust_requests=12)
    known = dict.fromkeys((one.request_id for one in scene.records), 1)
    scene.records.append(record(11, outcome="failed", status=0, tokens=0, error="no answer", receipt={}))
    scene.logged = known
    assert {"each_once", "requests", "none"} <= scene.wrong()


def test_engines_of_others_are_left_out() -> None:
    scene = Scene()
    locust = {"total": {"requests": 11, "failures": 0}}
    found = check(scene.records, Counted([locust], scene.gateway()))
    assert all(one.ok for one in found)
    assert not [one for one in found if one.what.startswith("engine") or one.what == "each_once"]


def test_an_error_inside_a_stream_counts_with_its_own_status() -> None:
    scene = Scene(locust_requests=12, statuses={"2xx": 10, "left": 1, "5xx": 1})
    scene.records.append(
        record(
            11, outcome="failed", status=200, tokens=2, error="in the stream: 502 engine_error: …", receipt={}
        )
    )
    assert "5xx" not in scene.wrong()
    assert MODEL in {one.model for one in scene.records}
