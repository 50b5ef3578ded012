"""``@record`` in the form of which mypyc makes native classes; for ``compile.py``, on a copy of the sources.

A decorator that it does not know makes a class an ordinary one to mypyc; one made by ``dataclass`` is native,
but its ``__init__`` is run by the interpreter, and sets each field through a descriptor. So a record is given
the same ``__init__`` in words, on a line that says nothing to the compiler (the empty one behind the
docstring): no line changes its number, and tracebacks point into the sources.
"""

from __future__ import annotations

import ast

_DECORATOR = "@dataclass(init=False, unsafe_hash=True)"
_IMPORT = "from gateway.records import record"


def native(source: str) -> str:
    """``source`` with its records made native. Raises ValueError where there is no line to write on."""
    if _IMPORT not in source:
        return source
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and _is_record(node):
            place = node.body[0].end_lineno or 0  # of the docstring; so this is the line behind it
            if lines[place].strip():
                raise ValueError(
                    f"line {place + 1}: an empty line has to follow the docstring of {node.name}"
                )
            lines[place] = "    " + _init(node)
            lines[node.decorator_list[0].lineno - 1] = _DECORATOR
    taken = lines.index(_IMPORT)
    lines[taken] = "from dataclasses import dataclass"
    return "\n".join(lines) + "\n"


def _is_record(node: ast.ClassDef) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "record" for one in node.decorator_list)


def _init(node: ast.ClassDef) -> str:
    fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
    parameters = ", ".join(_parameter(one) for one in fields)
    return f"def __init__(self, {parameters}) -> None: {'; '.join(map(_assignment, fields))}"


def _parameter(field: ast.AnnAssign) -> str:
    name, kind = ast.unparse(field.target), ast.unparse(field.annotation)
    if field.value is None:
        return f"{name}: {kind}"
    if _made_by(field) is not None:
        return f"{name}: {kind} | None = None"
    given = _keyword(field, "default")
    return f"{name}: {kind} = {ast.unparse(field.value if given is None else given)}"


def _assignment(field: ast.AnnAssign) -> str:
    name, made_by = ast.unparse(field.target), _made_by(field)
    if made_by is None:
        return f"self.{name} = {name}"
    return f"self.{name} = {ast.unparse(made_by)}() if {name} is None else {name}"


def _made_by(field: ast.AnnAssign) -> ast.expr | None:
    return _keyword(field, "default_factory")


def _keyword(field: ast.AnnAssign, name: str) -> ast.expr | None:
    """An argument of ``field(...)``."""
    call = field.value
    if not isinstance(call, ast.Call) or ast.unparse(call.func) != "field":
        return None
    return next((one.value for one in call.keywords if one.arg == name), None)
