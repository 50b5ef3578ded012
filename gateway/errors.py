"""Every refusal and failure, as one tree: class → HTTP status, type, what to do.

GatewayError
├── InvalidRequest            422  a field breaks a rule (``field`` names it)
│   ├── InvalidJson           400  the body is not JSON
│   ├── UnsupportedMediaType  415  the body is not declared as JSON
│   ├── PayloadTooLarge       413  the body is over the limit
│   ├── UnknownScenario       422  no scenario of that name
│   └── NotSupported          422  part of a dialect that would change the answer, and that we do not have
├── RequestTimeout            408  the request did not come in whole within its time
├── HeadTooLarge              431  the request's line and headers are over the limit
├── Unauthorized              401  no key, or a wrong one
├── Forbidden                 403  the key is not for this; or none is set, and a web page asks
├── NotFound                  404  no such route or object
│   └── ModelNotFound         404  no model or alias of that name
├── MethodNotAllowed          405
├── Overloaded                429  a queue or the engine is full; Retry-After is computed
├── ModelUnavailable          503  the model cannot answer now; Retry-After where it can be known
│   ├── WaitTimeout           503  its turn did not come before the request's deadline
│   └── MemoryNotFree         503  (memory) the memory that a start needs did not become free
├── EngineError               502  the engine failed, or sent what cannot be understood
├── EngineTimeout             504  one of the four clocks ran out
└── InternalError             500  our own fault; the log has the rest

Dialects turn these into their own envelopes; nothing else does.
"""

from __future__ import annotations

from typing import ClassVar


class GatewayError(Exception):
    """Base of all errors that reach a client.

    ``message`` says what was wrong and where, ``hint`` what to do about it. ``retry_after_s`` is
    in seconds: computed from what was measured, or from sizes before the first measurement; never a constant.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        hint: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = _closed(message)
        self.field = field
        self.hint = hint and _closed(hint)
        self.retry_after_s = retry_after_s


def _closed(sentence: str) -> str:
    """With a full stop: what others put behind it stays readable."""
    return sentence if sentence.endswith((".", "!", "?", "…", "。")) else f"{sentence}."


class InvalidRequest(GatewayError):
    status = 422
    type = "validation"


class InvalidJson(InvalidRequest):
    status = 400
    type = "invalid_json"


class UnsupportedMediaType(InvalidRequest):
    status = 415
    type = "unsupported_media_type"


class PayloadTooLarge(InvalidRequest):
    status = 413
    type = "payload_too_large"


class UnknownScenario(InvalidRequest):
    type = "unknown_scenario"


class NotSupported(InvalidRequest):
    type = "unsupported_parameter"


class RequestTimeout(GatewayError):
    status = 408
    type = "request_timeout"


class HeadTooLarge(GatewayError):
    status = 431
    type = "headers_too_large"


class Unauthorized(GatewayError):
    status = 401
    type = "unauthorized"


class Forbidden(GatewayError):
    status = 403
    type = "forbidden"


class NotFound(GatewayError):
    status = 404
    type = "not_found"


class ModelNotFound(NotFound):
    type = "model_not_found"


class MethodNotAllowed(GatewayError):
    status = 405
    type = "method_not_allowed"

    def __init__(self, message: str, *, allowed: str = "") -> None:
        """``allowed``: the methods that do work, as the header Allow has them."""
        super().__init__(message, hint=f"Use {allowed}" if allowed else None)
        self.allowed = allowed


class Overloaded(GatewayError):
    status = 429
    type = "overloaded"


class ModelUnavailable(GatewayError):
    status = 503
    type = "model_unavailable"


class WaitTimeout(ModelUnavailable):
    type = "wait_timeout"


class EngineError(GatewayError):
    status = 502
    type = "engine_error"


class EngineTimeout(GatewayError):
    status = 504
    type = "engine_timeout"


class InternalError(GatewayError):
    status = 500
    type = "internal_error"
