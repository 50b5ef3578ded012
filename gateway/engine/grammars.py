"""TGI's ``grammar`` for llama.cpp: which ones are refused, and how the others are written."""

from __future__ import annotations

import re
from typing import Any

from gateway.wire.grammars import closed, schema_of, schema_refusal
from gateway.wire.tgi import Grammar

# What Python's expressions have and llama.cpp's matcher (an automaton) has not.
_BEYOND_AUTOMATA = re.compile(r"\(\?(?:[=!]|<[=!]|P=|\()|\\[1-9]|\\[bBAZz]")


def refusal(grammar: Grammar) -> str | None:
    """Why this grammar cannot be used, as TGI words it, or None."""
    try:
        if grammar.type == "regex":
            return _regex_refusal(grammar.value)
        return schema_refusal(schema_of(grammar.type, grammar.value))
    except ValueError as error:
        return f"grammar is not valid: {error}"


def _regex_refusal(value: Any) -> str | None:
    if not isinstance(value, str):
        return "grammar is not valid: a regex is a string"
    try:
        re.compile(value)
    except re.error as error:
        return f"grammar is not valid: {error}"
    found = _BEYOND_AUTOMATA.search(value)
    return f"grammar is not valid: `{found.group()}` is not supported" if found else None


def for_llama(grammar: Grammar) -> dict[str, Any]:
    """The fields that llama.cpp's completion takes."""
    if grammar.type == "regex":
        inside = re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", grammar.value).replace("\n", "\\n")
        return {"grammar": f"%llguidance {{}}\nstart: /{inside}/"}
    return {"json_schema": closed(schema_of(grammar.type, grammar.value))}
