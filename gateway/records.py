"""``record``: a frozen dataclass, as far as anybody who writes code can tell.

Type checkers refuse to change one. At run time nothing stands in the way: a frozen dataclass sets each field
through ``object.__setattr__``, which makes it several times as dear to make, and a request makes a dozen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, cast, dataclass_transform

Class = TypeVar("Class", bound=type)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: Class) -> Class:
    """For what is made with every request or token. Elsewhere ``@dataclass(frozen=True, slots=True)``."""
    return cast(Class, dataclass(slots=True, unsafe_hash=True)(cls))
