"""What a body of TGI's asks of the line; apart from ``tgi`` so that it can be compiled. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.api.tgi_bodies import TgiBody
from gateway.config import ModelSpec
from gateway.parameters import given_in
from gateway.preparing import GenerationRequest
from gateway.routing import Who
from gateway.scenarios import RAW

_NONE: Final[frozenset[str]] = frozenset()


def asked_for(
    body: TgiBody, who: Who, started: float, *, full_text: bool = False, stream: bool = False
) -> GenerationRequest:
    """What the line is asked for."""
    given = given_by(body)
    if full_text:
        given["return_full_text"] = True
    return request_for(body.inputs, given, who, started, stream=stream)


def given_by(body: TgiBody) -> dict[str, Any]:
    """The parameters of a request."""
    # Without any parameters TGI samples; with an empty object it does not.
    return {"do_sample": True} if body.parameters is None else given_in(body.parameters)


def request_for(
    inputs: str, given: Mapping[str, Any], who: Who, started: float, *, stream: bool
) -> GenerationRequest:
    """The same as ``asked_for``, out of its parts."""
    return GenerationRequest(
        model=who.spec.id,
        inputs=inputs,
        messages=None,
        parameters=given,
        started=started,
        scenario=RAW,
        stream=stream,
        raw=stream,
        without=_left_open(given, who.spec),
        who=who,
    )


def _left_open(given: Mapping[str, Any], spec: ModelSpec) -> frozenset[str]:
    """Parameters that have no default here."""
    left = _NONE
    # TGI's own limit is all that the context has room for. Only the operator's word for this model counts.
    if "max_new_tokens" not in given and spec.parameters.max_new_tokens is None:
        left = left | {"max_new_tokens"}
    # Several answers with one seed would be the same answer, and TGI refuses that.
    if given.get("best_of", 1) > 1 and "seed" not in given:
        left = left | {"seed"}
    return left
