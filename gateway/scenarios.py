"""What a request is for: system prompt, user wrapping and defaults, in English and Chinese. Pure."""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, get_args

from gateway.errors import UnknownScenario
from gateway.schemas import Language, Message

RAW: Final = "raw"
DEFAULT: Final = "general"
PLACEHOLDER: Final = "{inputs}"

LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)

Localised = str | Mapping[str, str | None] | None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One use, per language. The three texts have an entry for every language.

    ``system`` None leaves the system turn to the model's template. ``user`` has ``{inputs}`` exactly once;
    other braces are plain text. ``parameters`` are defaults under TGI's names. ``languages`` are those the
    texts were written in.
    """

    id: str
    description: Mapping[Language, str]
    system: Mapping[Language, str | None]
    user: Mapping[Language, str]
    parameters: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    languages: tuple[Language, ...] = LANGUAGES

    @property
    def is_raw(self) -> bool:
        """Whether inputs go to the model as they are, without any template."""
        return self.id == RAW


def scenario_from(
    id: str,  # noqa: A002  the field's name
    description: Localised = "",
    system: Localised = None,
    user: Localised = PLACEHOLDER,
    parameters: Mapping[str, Any] | None = None,
) -> Scenario:
    """A scenario from texts that are one string for all languages, or a mapping from language to string.

    A language that a mapping lacks (or has as None) gets the other one's text. Raises ValueError when a
    language is unknown or a user wrapping does not contain ``{inputs}`` exactly once.
    """
    texts = {"description": description, "system": system, "user": user}
    for name, text in texts.items():
        _check_languages(f"scenario {id!r}: {name}", text)
    wrapping = {k: PLACEHOLDER if v is None else v for k, v in _in_every_language(user).items()}
    for language, text in wrapping.items():
        _check_wrapping(f"scenario {id!r}: user ({language})", text)
    return Scenario(
        id=id,
        description=MappingProxyType({k: v or "" for k, v in _in_every_language(description).items()}),
        system=MappingProxyType(_in_every_language(system)),
        user=MappingProxyType(wrapping),
        parameters=MappingProxyType(dict(parameters or {})),
        languages=_written_in(system, user),
    )


def _check_languages(where: str, text: Localised) -> None:
    for language in text if isinstance(text, Mapping) else ():
        if language not in LANGUAGES:
            raise ValueError(f"{where} has the language {language!r}; allowed are {', '.join(LANGUAGES)}")


def _check_wrapping(where: str, text: str) -> None:
    if (count := text.count(PLACEHOLDER)) != 1:
        raise ValueError(
            f"{where} must contain {PLACEHOLDER} exactly once, where the request's text goes; found {count}"
        )


def _in_every_language(text: Localised) -> dict[Language, str | None]:
    if not isinstance(text, Mapping):
        return dict.fromkeys(LANGUAGES, text)
    any_text = next((value for value in text.values() if value is not None), None)
    return {language: any_text if text.get(language) is None else text[language] for language in LANGUAGES}


def _written_in(*texts: Localised) -> tuple[Language, ...]:
    named = {
        key for text in texts if isinstance(text, Mapping) for key, value in text.items() if value is not None
    }
    return tuple(language for language in LANGUAGES if language in named or not named)


def messages_for(
    scenario: Scenario, inputs: str, language: Language | None = None, system: str | None = None
) -> tuple[Message, ...]:
    """The conversation that ``inputs`` become. The language of ``inputs`` decides unless one is given.

    ``system`` takes the place of the scenario's own system prompt; an empty one stands, and keeps the model's
    template from putting in its default. Raises ValueError for ``raw``, which has no conversation.
    """
    if scenario.is_raw:
        raise ValueError("the raw scenario sends inputs as they are; it has no messages")
    language = language or detect_language(inputs)
    before, _, after = scenario.user[language].partition(PLACEHOLDER)
    user = Message("user", before + inputs + after)
    system = scenario.system[language] if system is None else system
    return (user,) if system is None else (Message("system", system), user)


class ScenarioBook:
    """All scenarios of this gateway: the built-in ones, then the user's own. Does not change once made."""

    __slots__ = ("_by_id",)

    def __init__(self, own: Iterable[Scenario] = ()) -> None:
        """A scenario of the user's own replaces the built-in one of the same id.

        Raises ValueError when one is called ``raw``, or two have the same id.
        """
        added: dict[str, Scenario] = {}
        for scenario in own:
            if scenario.is_raw:
                raise ValueError(f"scenario {RAW!r} is built in and cannot be replaced; choose another id")
            if scenario.id in added:
                raise ValueError(f"scenario {scenario.id!r} is defined twice")
            added[scenario.id] = scenario
        self._by_id: Mapping[str, Scenario] = MappingProxyType(
            {scenario.id: scenario for scenario in BUILT_IN} | added
        )

    def get(self, id: str | None = None) -> Scenario:  # noqa: A002  the field's name
        """The scenario of that id, ``general`` when there is none. Raises UnknownScenario."""
        found = self._by_id.get(DEFAULT if id is None else id)
        if found is None:
            raise UnknownScenario(
                f"There is no scenario `{id}`.",
                field="scenario",
                hint=f"There are: {', '.join(self._by_id)}.",
            )
        return found

    def items(self) -> ItemsView[str, Scenario]:
        return self._by_id.items()


_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003347f"
_HAN_CHARACTER = re.compile(f"[{_HAN}]")
_KANA = re.compile("[\u3041-\u309f\u30a1-\u30fa\u30fd-\u30ff\uff66-\uff9f]")
_LETTER = rf"(?![{_HAN}])[^\W\d_]"
_WORD = re.compile(rf"(?:{_LETTER})+(?:['’](?:{_LETTER})+)*")
# What a text mentions is not the language it is written in: code, addresses, quotations.
_MENTIONED = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|https?://[!-~]+"
    r"|\"[^\"\n]*\"|“[^“”\n]*”|「[^「」\n]*」|『[^『』\n]*』|《[^《》\n]*》|«[^«»\n]*»",
    re.DOTALL,
)
_LOOK_AT_CHARACTERS = 4000


def detect_language(text: str) -> Language:
    """Chinese when Han characters dominate what the text says in its own voice, otherwise English.

    Code in backticks, web addresses and quotations are left out, unless nothing else remains. Then Chinese
    needs at least as many Han characters as there are words in other scripts (a name like ``Docker Compose``
    is two words, ``解释`` two characters). Text with more than one kana to ten Han characters is Japanese
    and falls to English, as every language does that is not Chinese. Only the first 4000 characters count.
    """
    text = text[:_LOOK_AT_CHARACTERS]
    own_voice = _MENTIONED.sub(" ", text)
    if not (_HAN_CHARACTER.search(own_voice) or _WORD.search(own_voice)):
        own_voice = text
    han = len(_HAN_CHARACTER.findall(own_voice))
    if len(_KANA.findall(own_voice)) * 10 > han:
        return "en"
    return "zh" if han and han >= len(_WORD.findall(own_voice)) else "en"


BUILT_IN: Final[tuple[Scenario, ...]] = (
    scenario_from(
        "general",
        description={"en": "Free conversation; the model's own manner", "zh": "自由对话，保留模型自身的风格"},
        parameters={"max_new_tokens": 512, "temperature": 0.7, "top_p": 0.9},
    ),
    scenario_from(
        "qa",
        description={"en": "A short, factual answer to a question", "zh": "简短、准确地回答问题"},
        system={
            "en": "Answer the user's question accurately and briefly. Give the answer first, then only the "
            "explanation it needs. If you do not know, say so.",
            "zh": "请准确、简洁地回答用户的问题。先给出答案，再作必要的说明。不知道就直说，不要编造。",
        },
        user={"en": "Question: {inputs}", "zh": "问题：{inputs}"},
        parameters={"max_new_tokens": 512, "temperature": 0.2, "top_p": 0.9},
    ),
    scenario_from(
        "summary",
        description={"en": "The main points of a text", "zh": "概括一段文字的要点"},
        system={
            "en": "Summarise the text that the user sends. Keep the main points, names and figures, "
            "leave out what is secondary, and add nothing of your own.",
            "zh": "请概括用户给出的文字。保留要点、人名和关键数字，略去次要内容，不要添加原文没有的信息。",
        },
        user={"en": "Summarise this text:\n\n{inputs}", "zh": "请概括下面这段文字：\n\n{inputs}"},
        parameters={"max_new_tokens": 768, "temperature": 0.3, "top_p": 0.9},
    ),
    scenario_from(
        "rewrite",
        description={"en": "The same content in clearer, better words", "zh": "改写文字，使其更清楚、更通顺"},
        system={
            "en": "Rewrite the text that the user sends so that it is clear, correct and fluent. "
            "Keep its meaning, its facts and its language. Reply with the rewritten text only.",
            "zh": "请改写用户给出的文字，使其清楚、准确、通顺。保持原意、事实和语言不变，"
            "只输出改写后的文字。",
        },
        user={"en": "Rewrite this text:\n\n{inputs}", "zh": "请改写下面这段文字：\n\n{inputs}"},
        parameters={"max_new_tokens": 768, "temperature": 0.7, "top_p": 0.9},
    ),
    scenario_from(
        RAW,
        description={
            "en": "The inputs as they are, without a template",
            "zh": "原样发送输入，不套用任何模板",
        },
        parameters={"max_new_tokens": 512},
    ),
)
