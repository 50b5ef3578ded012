"""What stops a load test, said to a person."""

from __future__ import annotations


class Problem(Exception):
    """The text says what was wrong, where, and what to do."""
