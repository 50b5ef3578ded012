"""Single tokens in the bytes in which TGI wrote them, for dialects that pass them on in their own form."""

from __future__ import annotations

import re
from typing import Final

from pydantic_core import from_json

from gateway.schemas import RawTokens, Token
from gateway.wire.json import KEYS_ALONE

# Quotes inside a text would be escaped, so these can only be the fields. A text with an escape in it is left
# to those who read JSON: the same character can be written in several ways.
_PLAIN: Final = re.compile(
    rb'data: \{"index":[0-9]+,"token":\{"id":[0-9]+,"text":("[^"\\]+"),'
    rb'"logprob":[-+.0-9eE]+,"special":false\}'
)


def plain_text(event: bytes) -> bytes | None:
    """The text of a token, as a string of JSON; None where there is none, or it has to be read."""
    found = _PLAIN.match(event)
    return None if found is None else found[1]


def token_of(event: bytes) -> Token:
    """The token of an event."""
    token = from_json(event.removeprefix(b"data: "), cache_strings=KEYS_ALONE)["token"]
    return Token(token["text"], token.get("id"), token.get("logprob"), bool(token.get("special")))


def events_of(tokens: RawTokens) -> list[bytes]:
    """Each event by itself, without the empty line that ends it."""
    return tokens.events.split(b"\n\n")[:-1]
