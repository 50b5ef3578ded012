"""The chat's pure parts: texts, session, parameters, wording, the command line's values."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import io
import json
import string
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.chat import reply
from gateway.chat.client import encode, is_loopback
from gateway.chat.commands import Commands
from gateway.chat.console import Console, clipped
from gateway.chat.events import Answer, Waiting
from gateway.chat.language import texts_for
from gateway.chat.main import gateway_url
from gateway.chat.params import NAMES, MalformedParameter, UnknownParameter, changed, shown, split
from gateway.chat.prompt import history_path
from gateway.chat.session import Session, as_json, as_markdown
from gateway.chat.terminal import QUIT, RETRY
from gateway.chat.texts import Texts
from gateway.chat.texts_en import EN
from gateway.chat.texts_zh import ZH
from gateway.chat.wording import receipt_line, seconds, waiting_line
from gateway.parameters import Parameters

FIELDS = [field.name for field in dataclasses.fields(Texts)]


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("name", FIELDS)
def test_both_languages_have_the_sentence_with_the_same_gaps(name: str) -> None:
    english, chinese = getattr(EN, name), getattr(ZH, name)
    if isinstance(english, Mapping):
        assert list(english) == list(chinese)
        assert all([*english.values(), *chinese.values()])
    else:
        assert english
        assert chinese
        assert placeholders(english) == placeholders(chinese)


def test_help_lists_every_command() -> None:
    console = Console(io.StringIO(), {})
    handled = Commands(None, console, EN)._handlers  # type: ignore[arg-type]
    assert set(EN.help_commands) == {*handled, RETRY, QUIT[0]}


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C", "LC_ALL": "zh_CN"}, "zh"),
        ({"LANG": "zh_CN", "LC_ALL": ""}, "zh"),
    ],
)
def test_the_locale_decides_the_language(environment: dict[str, str], code: str) -> None:
    assert texts_for(environment).code == code


def test_an_exchange_of_which_nothing_arrived_is_not_sent_again() -> None:
    session = Session().asked("a").answered("a", "", model="m", complete=False)
    assert session.exchanges == ()
    assert session.last_prompt == "a"


def test_an_empty_but_whole_answer_does_not_break_the_turns() -> None:
    session = Session().asked("a").answered("a", "", model="m", complete=True)
    assert session.body("b")["messages"] == [{"role": "user", "content": "b"}]


def test_rewinding_takes_back_only_the_exchange_of_the_last_prompt() -> None:
    one = Session().asked("a").answered("a", "x", model="m", complete=True)
    assert one.rewound().exchanges == ()
    assert one.asked("b").rewound().exchanges == one.exchanges


def test_the_markdown_names_models_scenarios_and_what_is_incomplete() -> None:
    session = Session(system="Be brief.").asked("你好").answered("你好", "Half", model="m1", complete=False)
    session = dataclasses.replace(session, scenario="qa").answered("Why?", "So.\n", model="m2", complete=True)
    assert as_markdown(session, EN) == (
        "# Conversation\n\n## System\n\nBe brief.\n\n## You\n\n你好\n\n## m1 (incomplete)\n\nHalf\n\n"
        "## You\n\nWhy?\n\n## m2 (qa)\n\nSo.\n"
    )
    assert [exchange["complete"] for exchange in json.loads(as_json(session))["exchanges"]] == [False, True]


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("temperature=0.2 max_new_tokens=200", {"temperature": 0.2, "max_new_tokens": 200}),
        ("do_sample=false", {"do_sample": False}),
        ("seed=1 seed=", {}),
        ("top_p=", {}),
        ("stop=END", {"stop": ["END"]}),
        ('stop=["a","b"]', {"stop": ["a", "b"]}),
        (r"stop='[\"a b\", \"\n\"]'".replace(r"\"", '"'), {"stop": ["a b", "\n"]}),
        ("temperature=hot", {"temperature": "hot"}),
    ],
)
def test_words_become_parameters(text: str, params: dict[str, Any]) -> None:
    assert changed({"top_p": 0.9} if text == "top_p=" else {}, split(text)) == params


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("temperature", MalformedParameter),
        ("=1", MalformedParameter),
        ("a='", MalformedParameter),
        ("nonsense=1", UnknownParameter),
    ],
)
def test_words_that_are_no_parameters_are_refused(
    text: str, error: type[MalformedParameter | UnknownParameter]
) -> None:
    with pytest.raises(error):
        changed({}, split(text))


def test_parameters_shown_can_be_typed_again() -> None:
    params = {"temperature": 0.2, "stop": ["END"], "do_sample": True}
    assert changed({}, split(shown(params))) == params


def test_the_names_are_the_gateways() -> None:
    assert set(NAMES) <= set(Parameters.model_fields)


@pytest.mark.parametrize(
    ("amount_s", "text"),
    [(0.0312, "0.03 s"), (0.25, "0.25 s"), (5.44, "5.4 s"), (42.4, "42 s"), (125, "2 min 5 s")],
)
def test_seconds_have_three_figures_at_most(amount_s: float, text: str) -> None:
    assert seconds(EN, amount_s) == text


@pytest.mark.parametrize(
    ("waiting", "passed_s", "line"),
    [
        (Waiting("loading", "m", phase="warming_up"), 0, "⟳ m: warming up"),
        (Waiting("loading", "m", phase="quantising", progress=0.5), 0, "⟳ m: quantising 50 %"),
        (Waiting("queued", "m", position=3), 0, "⟳ m: queued · position 3"),
        (Waiting("loading", "m", eta_s=5.0), 2.1, "⟳ m: loading · about 3 s left"),
        (Waiting("loading", "m", eta_s=5.0), 60, "⟳ m: loading · about 1 s left"),
        (Waiting("draining", "m"), 0, "⟳ m: waiting until running answers are finished"),
    ],
)
def test_a_wait_is_one_line(waiting: Waiting, passed_s: float, line: str) -> None:
    assert waiting_line(EN, waiting, passed_s) == line


def test_a_receipt_tells_only_what_is_known() -> None:
    assert receipt_line(EN, Answer("m", "", "", None, 0, 0, None, None)) == "m"
    cut = Answer("m", "x", "length", 1, 0, 0, 100.0, 0.0)
    assert receipt_line(EN, cut) == (
        "m · 1 tokens · first token after 0.10 s · cut at the token limit (max_new_tokens)"
    )


def test_clipping_counts_cells_and_not_characters() -> None:
    assert clipped("你好世界", 8) == "你好世界"
    assert clipped("你好世界", 7) == "你好世…"
    assert clipped("你好世界", 6) == "你好…"


def test_lone_surrogates_do_not_stop_a_message() -> None:
    assert json.loads(encode({"a": "x\udcffy", "b": "你🙂"})) == {
        "a": "x\N{REPLACEMENT CHARACTER}y",
        "b": "你🙂",
    }


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://localhost", True),
        ("http://[::1]:8000", True),
        ("http://gateway.example", False),
        ("http://10.0.0.1", False),
    ],
)
def test_proxies_are_for_other_machines(url: str, loopback: bool) -> None:
    assert is_loopback(url) is loopback


@pytest.mark.parametrize(
    ("text", "url"), [("localhost:8000", "http://localhost:8000"), ("https://host/x/", "https://host/x")]
)
def test_an_address_may_leave_out_the_scheme(text: str, url: str) -> None:
    assert gateway_url(text) == url


@pytest.mark.parametrize("text", ["ftp://x", "http://", "http://[::1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        gateway_url(text)


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({}, "/home/a/.local/state"),
        ({"XDG_STATE_HOME": "/s"}, "/s"),
        ({"XDG_STATE_HOME": "s"}, "/home/a/.local/state"),
    ],
)
def test_the_history_lives_in_the_state_folder(environment: dict[str, str], folder: str) -> None:
    expected = Path(folder) / "unified-llm-gateway" / "chat_history"
    assert history_path(environment, Path("/home/a")) == expected


async def test_silence_is_said_once_where_every_notice_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply, "TICK_S", 0.01)
    monkeypatch.setattr(reply, "LONG_S", 0.03)
    news = io.StringIO()

    async def nothing() -> AsyncGenerator[Answer]:
        await asyncio.Event().wait()
        yield Answer("", "", "", None, 0.0, 0.0, None, None)

    told = reply.Reply(EN, "echo", Console(io.StringIO(), {}), Console(news, {}))
    receiving = asyncio.create_task(told.receive(nothing()))
    while not news.getvalue():
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(receiving, 0.1)

    assert news.getvalue() == "echo: waiting for the first token · 0 s\n"
