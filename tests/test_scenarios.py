import time
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UnknownScenario
from gateway.scenarios import BUILT_IN, LANGUAGES, ScenarioBook, detect_language, messages_for, scenario_from
from gateway.schemas import Language, Message

NAMES = ["general", "qa", "summary", "rewrite", "raw"]
BOOK = ScenarioBook()

anything = st.text(max_size=30)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("你好，世界！", "zh"),
        ("Python 的 GIL 是什么？", "zh"),
        ("用 Python 写一个 hello world 程序", "zh"),
        ("解释 Docker Compose", "zh"),
        ("什麼是機器學習？", "zh"),
        ("《红楼梦》讲了什么？", "zh"),
        ("《红楼梦》", "zh"),
        ("“thank you very much”是什么意思？", "zh"),
        ('"asyncio" 和 "threading" 有什么区别？', "zh"),
        ("这段代码有什么问题？\n```python\nfor item in items:\n    print(item, sep=end)\n```", "zh"),
        ("总结一下 https://example.com/an/article/with/a/long/path.html", "zh"),
        ("`git rebase --onto main feature` 是做什么的", "zh"),
        ("“ありがとう”是什么意思？", "zh"),
        ("我想知道鲜の每日这个牌子的牛奶怎么样", "zh"),
        ("𠀀𠀁𠀂", "zh"),
        ("Hello, world!", "en"),
        ('What does "你好" mean?', "en"),
        ('Translate "你好，世界，今天天气很好" into English', "en"),
        ("How do I say 谢谢 politely?", "en"),
        ("Who wrote 《红楼梦》?", "en"),
        ("What's the difference? ```# 注释：这里打印每一个元素的名字```", "en"),
        ("これは何ですか？", "en"),
        ("東京の天気を教えて", "en"),
        ("東京特許許可局の局長が来日した", "en"),
        ("ｶﾀｶﾅ", "en"),
        ("안녕하세요 세계", "en"),
        ("Что значит слово 中文?", "en"),
        ("Où est la bibliothèque ?", "en"),
        ("", "en"),
        ("   \n", "en"),
        ("42 + 1 = ?", "en"),
        ("🙂👍", "en"),
        ("，。！？", "en"),
    ],
)
def test_language_is_the_one_that_a_text_is_written_in(text: str, language: Language) -> None:
    assert detect_language(text) == language


@pytest.mark.parametrize("unit", ['"', "“", "《", "```", "`", "'", "a'", "https://", "中a", "中", " "])
def test_language_of_a_huge_text_costs_little(unit: str) -> None:
    text = unit * 500_000
    started = time.process_time()
    detect_language(text)
    assert time.process_time() - started < 0.1


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", ["qa", "summary", "rewrite"])
def test_tasks_have_a_system_prompt_and_a_wrapping_in_each_language(name: str, language: Language) -> None:
    system, user = messages_for(BOOK.get(name), "INPUT", language)
    assert (system.role, user.role) == ("system", "user")
    assert user.content.endswith("INPUT")
    assert len(user.content) > len("INPUT")
    assert detect_language(system.content) == language
    assert detect_language(user.content.replace("INPUT", "")) == language


@pytest.mark.parametrize("language", LANGUAGES)
def test_general_sends_the_inputs_alone(language: Language) -> None:
    assert messages_for(BOOK.get("general"), " hi {x}\n", language) == (Message("user", " hi {x}\n"),)


def test_raw_has_no_conversation() -> None:
    assert BOOK.get("raw").is_raw
    with pytest.raises(ValueError, match="raw"):
        messages_for(BOOK.get("raw"), "hi")


@pytest.mark.parametrize("name", NAMES)
def test_built_in_scenarios_are_described_and_bounded(name: str) -> None:
    scenario = BOOK.get(name)
    assert {detect_language(scenario.description[language]) for language in LANGUAGES} == set(LANGUAGES)
    assert scenario.languages == LANGUAGES
    assert 0 < scenario.parameters["max_new_tokens"] <= 1024
    assert 0 < scenario.parameters.get("top_p", 0.5) < 1
    assert 0 < scenario.parameters.get("temperature", 1) <= 1


def test_built_in_scenarios_differ_where_the_tasks_do() -> None:
    parameters = {name: BOOK.get(name).parameters for name in NAMES}
    assert parameters["qa"]["temperature"] == 0.2
    assert parameters["summary"]["temperature"] < parameters["general"]["temperature"] == 0.7
    assert parameters["summary"]["max_new_tokens"] > parameters["general"]["max_new_tokens"] == 512


@pytest.mark.parametrize(
    ("inputs", "language", "expected"),
    [("什么是熵？", None, "zh"), ("What is entropy?", None, "en"), ("What is entropy?", "zh", "zh")],
)
def test_language_of_the_inputs_decides_unless_one_is_given(
    inputs: str, language: Language | None, expected: Language
) -> None:
    assert messages_for(BOOK.get("qa"), inputs, language) == messages_for(BOOK.get("qa"), inputs, expected)
    assert detect_language(messages_for(BOOK.get("qa"), inputs, language)[0].content) == expected


@pytest.mark.parametrize("name", ["general", "qa"])
@pytest.mark.parametrize("own", ["Speak like a pirate.", ""])
def test_a_system_prompt_of_the_request_comes_first(name: str, own: str) -> None:
    system, user = messages_for(BOOK.get(name), "hi", "en", own)
    assert system == Message("system", own)
    assert user == messages_for(BOOK.get(name), "hi", "en")[-1]


@given(before=anything, inputs=anything, after=anything)
def test_braces_survive_on_both_sides(before: str, inputs: str, after: str) -> None:
    before, after = before.replace("{inputs}", ""), after.replace("{inputs}", "")
    if (before + "{inputs}" + after).count("{inputs}") == 1:
        scenario = scenario_from("mine", user=before + "{inputs}" + after)
        assert messages_for(scenario, inputs, "en")[-1].content == before + inputs + after


@pytest.mark.parametrize(
    "inputs", ["{inputs}", "{inputs}{inputs}", "{0}", "{}", "{{x}}", "{user.__class__}", "%s"]
)
def test_inputs_that_look_like_placeholders_stay_as_typed(inputs: str) -> None:
    scenario = scenario_from("mine", user="a {b} {inputs} {c}")
    assert messages_for(scenario, inputs, "en") == (Message("user", f"a {{b}} {inputs} {{c}}"),)


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("no place", r"scenario 'mine': user \(en\) must contain \{inputs\} exactly once.*found 0"),
        ("", "found 0"),
        ("{inputs} {inputs}", "found 2"),
        ({"en": "{inputs}", "zh": "没有"}, r"user \(zh\) must contain"),
        ({"zh": "{ inputs }"}, "found 0"),
        ({"en": "{inputs}", "fr": "{inputs}"}, "user has the language 'fr'; allowed are en, zh"),
    ],
)
def test_a_wrapping_that_cannot_work_is_refused(user: str | Mapping[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scenario_from("mine", user=user)


@pytest.mark.parametrize("where", ["description", "system"])
def test_a_language_that_does_not_exist_is_refused(where: str) -> None:
    texts: dict[str, Any] = {where: {"de": "Hallo"}}
    with pytest.raises(ValueError, match=f"{where} has the language 'de'; allowed are en, zh"):
        scenario_from("mine", **texts)


@pytest.mark.parametrize(
    ("system", "user", "languages"),
    [
        ("one for all", "{inputs}", ("en", "zh")),
        ({"en": "only"}, "{inputs}", ("en",)),
        ({"zh": "只有"}, {"zh": "{inputs}。"}, ("zh",)),
        ({"zh": "只有", "en": None}, "{inputs}", ("zh",)),
        ({"en": "English"}, {"zh": "{inputs}。"}, ("en", "zh")),
        ({"en": None, "zh": None}, {"en": None, "zh": None}, ("en", "zh")),
    ],
)
def test_one_language_serves_for_both(
    system: str | Mapping[str, str | None],
    user: str | Mapping[str, str | None],
    languages: tuple[Language, ...],
) -> None:
    scenario = scenario_from("mine", system=system, user=user)
    assert scenario.languages == languages
    texts = [messages_for(scenario, "x", language) for language in LANGUAGES]
    assert texts[0] == texts[1]


def test_each_language_keeps_its_own_text() -> None:
    scenario = scenario_from(
        "mine", {"en": "d", "zh": "描"}, {"en": "s", "zh": ""}, {"en": "{inputs}?", "zh": "{inputs}？"}
    )
    assert scenario.description == {"en": "d", "zh": "描"}
    assert messages_for(scenario, "x", "en") == (Message("system", "s"), Message("user", "x?"))
    assert messages_for(scenario, "x", "zh") == (Message("system", ""), Message("user", "x？"))


def test_a_book_lists_the_built_in_scenarios_then_the_own_ones() -> None:
    mine = scenario_from("mine", parameters={"seed": 1})
    assert [name for name, _ in BOOK.items()] == NAMES
    assert list(ScenarioBook([mine]).items())[-1] == ("mine", mine)
    assert ScenarioBook([mine]).get("mine").parameters == {"seed": 1}


def test_without_a_name_general_is_meant() -> None:
    assert BOOK.get() is BOOK.get("general")


def test_an_own_scenario_can_take_the_place_of_a_built_in_one() -> None:
    mine = scenario_from("qa", system="Answer in rhyme.")
    assert ScenarioBook([mine]).get("qa") is mine
    assert BOOK.get("qa") in BUILT_IN


@pytest.mark.parametrize(
    ("ids", "message"), [(["raw"], "'raw' is built in"), (["a", "a"], "'a' is defined twice")]
)
def test_own_scenarios_that_clash_are_refused(ids: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScenarioBook([scenario_from(name) for name in ids])


@pytest.mark.parametrize("name", ["translate", "", "QA", "qa "])
def test_an_unknown_scenario_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownScenario) as refused:
        ScenarioBook([scenario_from("mine")]).get(name)
    assert f"`{name}`" in refused.value.message
    assert refused.value.field == "scenario"
    assert refused.value.hint == "There are: general, qa, summary, rewrite, raw, mine."


def test_scenarios_cannot_be_changed() -> None:
    parameters = {"temperature": 0.5}
    scenario = scenario_from("mine", parameters=parameters)
    parameters["temperature"] = 2
    assert scenario.parameters == {"temperature": 0.5}
    with pytest.raises(TypeError):
        scenario.parameters["temperature"] = 2  # type: ignore[index]
    with pytest.raises(TypeError):
        scenario.user["en"] = ""  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        scenario.id = "other"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        BOOK.more = 1  # type: ignore[attr-defined]
