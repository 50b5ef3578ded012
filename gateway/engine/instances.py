"""A value that follows a JSON schema, always the same one. Pure.

The first of what is allowed: of ``enum`` and ``anyOf`` the first, all properties that are required and no
others, lists as short as they may be. For a deterministic backend; it checks nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

_DEEPEST: Final = 32


def instance_of(schema: Mapping[str, Any]) -> Any:
    """Raises ValueError for a schema that leads back into itself without an end."""
    return _made(schema, schema, 0)


def _made(schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    if depth > _DEEPEST:
        raise ValueError("the schema has no end")
    if not isinstance(schema, Mapping):
        return None
    for word in ("const", "default"):
        if word in schema:
            return schema[word]
    if schema.get("enum"):
        return schema["enum"][0]
    if "$ref" in schema:
        return _made(_referred(str(schema["$ref"]), root), root, depth + 1)
    for word in ("anyOf", "oneOf", "allOf"):
        if schema.get(word):
            return _made(schema[word][0], root, depth + 1)
    return _MAKERS[_type(schema)](schema, root, depth + 1)


def _type(schema: Mapping[str, Any]) -> str:
    said = schema.get("type")
    kind = said[0] if isinstance(said, list) and said else said
    if kind in _MAKERS:
        return str(kind)
    return "object" if "properties" in schema else "array" if "items" in schema else "string"


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _object(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    return {name: _made(properties.get(name), root, depth) for name in schema.get("required") or ()}


def _array(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> list[Any]:
    return [_made(schema.get("items"), root, depth) for _ in range(int(schema.get("minItems") or 0))]


def _number(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> int:
    return int(schema.get("minimum") or 0)


def _string(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> str:
    return "x" * int(schema.get("minLength") or 0) or "echo"


_MAKERS: Final[Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any], int], Any]]] = {
    "object": _object,
    "array": _array,
    "integer": _number,
    "number": _number,
    "string": _string,
    "boolean": lambda *_: True,
    "null": lambda *_: None,
}
