"""Ends of TGI's bodies that were read before: a client sends the same parameters with each of its requests.

Nearly all clients write ``{"inputs":"…","parameters":{…}}``. What was made of everything from
``"parameters"`` on is kept under these bytes; before them only the inputs are left to be read. A quote that
stands behind a comma begins or ends a string, and no valid JSON goes on with a bare word behind one that has
ended. So in a body whose beginning is an object by itself once it is closed, these bytes are what they were
when they were learnt: the last member of that object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic_core import from_json

from gateway.api.bodies import parse
from gateway.api.tgi_answers import details_asked
from gateway.api.tgi_bodies import TgiBody
from gateway.api.tgi_requests import given_by
from gateway.fastpath.settled import said
from gateway.records import record

MOST_TAILS: Final = 512
MOST_BYTES: Final = 1024
_NAME: Final = b'"parameters"'
_WHITE: Final = b" \t\r\n"


@record
class Tail:
    """What a body says beside its inputs. Nothing of it is to be changed."""

    given: Mapping[str, Any]
    said: bytes | None
    """The same as JSON; None where that cannot hold it."""
    details: bool


class Tails:
    """All that are remembered."""

    def __init__(self) -> None:
        self._known: dict[bytes, Tail] = {}

    def read(self, raw: bytes) -> tuple[str, Tail]:
        """The inputs of a body, and the rest of it. Raises InvalidJson and InvalidRequest."""
        at = raw.rfind(_NAME)
        tail = self._known.get(raw[at:]) if at > 0 else None
        if tail is not None and (inputs := _inputs(raw, at)) is not None:
            return inputs, tail
        body = parse(raw, TgiBody)
        given = given_by(body)
        tail = Tail(given, said(given), details_asked(body))
        if at > 0 and len(raw) - at <= MOST_BYTES and _is_last(raw, at):
            if len(self._known) >= MOST_TAILS:
                self._known.clear()
            self._known[raw[at:]] = tail
        return body.inputs, tail


def _inputs(raw: bytes, at: int) -> str | None:
    """What a body asks whose parameters begin at ``at``; None where the part before is not whole."""
    begin = raw[:at].rstrip(_WHITE)
    if not begin.endswith(b","):
        return None
    whole = begin[:-1] + b"}"
    try:
        said = from_json(whole, cache_strings="keys")
        inputs = said.get("inputs") if isinstance(said, dict) and len(said) == 1 else None
        if isinstance(inputs, str) and inputs:
            return inputs  # all that the model would look at, for a fraction of its price
        return TgiBody.model_validate_json(whole).inputs
    except ValueError:
        return None


def _is_last(raw: bytes, at: int) -> bool:
    """Whether what begins at ``at``, in a body that is right, is the last member of the body itself."""
    if _inputs(raw, at) is None:
        return False
    try:
        return from_json(b"{" + raw[at:]).keys() == {"parameters"}  # type: ignore[no-any-return]
    except ValueError:
        return False
