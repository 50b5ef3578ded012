"""Generation parameters as a person writes them: temperature=0.2. The gateway judges the values."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, Final

NAMES: Final = (
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "typical_p",
    "repetition_penalty",
    "frequency_penalty",
    "do_sample",
    "seed",
    "stop",
    "truncate",
    "watermark",
    "return_full_text",
    "grammar",
    "adapter_id",
)


class MalformedParameter(ValueError):
    """A word that is not NAME=VALUE."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class UnknownParameter(ValueError):
    """A name that no parameter has."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def changed(params: Mapping[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """``params`` with each of ``words`` applied; ``NAME=`` removes one.

    Raises MalformedParameter or UnknownParameter, and then nothing was changed.
    """
    result = dict(params)
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise MalformedParameter(word)
        if name not in NAMES:
            raise UnknownParameter(name)
        if value:
            result[name] = _value(name, value)
        else:
            result.pop(name, None)
    return result


def shown(params: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in params.items())


def split(text: str) -> list[str]:
    """The words of a line; single quotes keep white space inside one. Raises MalformedParameter."""
    # No escapes: a backslash in stop=["\n"] belongs to JSON.
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters, lexer.escape, lexer.quotes = True, "", "", "'"
    try:
        return list(lexer)
    except ValueError as error:
        raise MalformedParameter(text) from error


def _value(name: str, text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return [str(value)] if name == "stop" and not isinstance(value, list) else value
