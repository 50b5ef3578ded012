"""How JSON is read."""

from __future__ import annotations

from typing import Final

KEYS_ALONE: Final = "keys"
"""For ``cache_strings`` of pydantic: names come again and again, but what people and models write does not.
Kept all the same, it would fill 16,384 places of memory, and be read in none of them."""
