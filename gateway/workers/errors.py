"""An error of an engine on its way from a worker to the owner, who decides what becomes of the request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.errors import GatewayError, InternalError


def told(error: GatewayError) -> dict[str, Any]:
    return {"class": type(error).__name__, "fields": vars(error)}


def understood(said: Mapping[str, Any]) -> GatewayError:
    """The same error again."""
    kinds = {kind.__name__: kind for kind in _kinds(GatewayError)}
    kind, fields = kinds.get(said["class"], InternalError), said["fields"]
    error = kind.__new__(kind, fields["message"])
    vars(error).update(fields)
    return error


def _kinds(base: type[GatewayError]) -> Iterator[type[GatewayError]]:
    yield base
    for kind in base.__subclasses__():
        yield from _kinds(kind)
