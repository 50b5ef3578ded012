"""The JSON schema of TGI's ``grammar``, as TGI takes it."""

from __future__ import annotations

import json
from typing import Any, Literal

GrammarType = Literal["json", "regex", "json_schema"]


def schema_of(grammar_type: GrammarType, value: Any) -> Any:
    """The schema: TGI takes it as a string, too, and ``json_schema`` with or without OpenAI's wrapping.

    Raises ValueError for a string that is not JSON.
    """
    if grammar_type == "json_schema" and isinstance(value, dict) and "schema" in value:
        value = value["schema"]
    return json.loads(value) if isinstance(value, str) else value


def schema_refusal(schema: Any) -> str | None:
    """What TGI says to a schema that it does not take; None when it does."""
    if not isinstance(schema, dict) or "properties" not in schema:
        return "grammar is not valid: the JSON schema needs a `properties` field"
    return None


def closed(schema: Any) -> Any:
    """The schema with nothing beyond ``properties`` allowed unless it says so, as TGI takes it."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    within = {key: closed(value) for key, value in schema.items() if key != "properties"}
    properties = schema.get("properties")
    if isinstance(properties, dict):
        within["properties"] = {name: closed(one) for name, one in properties.items()}
        within.setdefault("additionalProperties", False)
    return within
