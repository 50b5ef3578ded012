"""What may stand at a place in a nested record, for error messages that help."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel


def names_at(record: type[BaseModel], loc: Iterable[Any]) -> list[str]:
    """The keys that the mapping at ``loc`` (a path of keys and indexes below ``record``) may have."""
    for part in loc:
        if isinstance(part, str) and part in record.model_fields:
            record = _record_in(record.model_fields[part].annotation) or record
    return sorted(record.model_fields)


def _record_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _record_in(part))), None)


def did_you_mean(word: str, names: Collection[str]) -> str:
    """`` (did you mean `x`?)``, or nothing when no name is near."""
    near = difflib.get_close_matches(word, list(names), n=1)
    return f" (did you mean `{near[0]}`?)" if near else ""


def follows(detail: Mapping[str, Any]) -> bool:
    """Whether a list is only too short because its items are wrong, which is said already."""
    return detail["type"] == "too_short" and bool(len(detail["input"]) >= detail["ctx"]["min_length"])


_ITEMS = re.compile(r"^(?:Tuple|List|Set|Dictionary) should have (.+?) after validation, not (\d+)$")


def in_words(message: str) -> str:
    """A message of pydantic's, without the names of Python's types."""
    if found := _ITEMS.match(message):
        return f"Should have {found[1]}, not {found[2]}"
    return message
