"""TGI's ``grammar`` for llama.cpp: which ones are refused, and how the others are written."""

from __future__ import annotations

import json
import re
from typing import Any

from gateway.engine.requests import schema_of
from gateway.wire.tgi import Grammar

# What Python's expressions have and llama.cpp's matcher (an automaton) has not.
_BEYOND_AUTOMATA = re.compile(r"\(\?(?:[=!]|<[=!]|P=|\()|\\[1-9]|\\[bBAZz]")


def refusal(grammar: Grammar) -> str | None:
    """Why this grammar cannot be used, as TGI words it, or None."""
    try:
        return _regex_refusal(grammar.value) if grammar.type == "regex" else _json_refusal(_schema(grammar))
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


def _json_refusal(schema: Any) -> str | None:
    if not isinstance(schema, dict) or "properties" not in schema:
        return "grammar is not valid: the JSON schema needs a `properties` field"
    return None


def for_llama(grammar: Grammar) -> dict[str, Any]:
    """The fields that llama.cpp's completion takes."""
    if grammar.type == "regex":
        inside = re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", grammar.value).replace("\n", "\\n")
        return {"grammar": f"%llguidance {{}}\nstart: /{inside}/"}
    return {"json_schema": _closed(_schema(grammar))}


def _closed(schema: Any) -> Any:
    """The schema with nothing beyond ``properties`` allowed unless it says so, as TGI takes it."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items() if key != "properties"}
    properties = schema.get("properties")
    if isinstance(properties, dict):
        closed["properties"] = {name: _closed(one) for name, one in properties.items()}
        closed.setdefault("additionalProperties", False)
    return closed


def _schema(grammar: Grammar) -> Any:
    """The schema as an object; TGI takes it as a string, too. Raises ValueError."""
    value = schema_of(grammar.value) if grammar.type == "json_schema" else grammar.value
    return json.loads(value) if isinstance(value, str) else value
