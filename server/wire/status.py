"""The error tree as gRPC status codes: one table, one way to say what happened.

A client reads the message of an error it can act on. What is our own fault reads the same for everybody, with an id
under which the log has the cause.
"""

import logging
import secrets
from collections.abc import Mapping
from types import MappingProxyType

from server import errors, log
from server.transports.base import Metadata, StatusCode, StatusError

CODES: Mapping[type[errors.ServingError], StatusCode] = MappingProxyType(
    {
        errors.InvalidRequest: StatusCode.INVALID_ARGUMENT,
        errors.NotFound: StatusCode.NOT_FOUND,
        errors.AlreadyExists: StatusCode.ALREADY_EXISTS,
        errors.Unauthenticated: StatusCode.UNAUTHENTICATED,
        errors.PermissionDenied: StatusCode.PERMISSION_DENIED,
        errors.Unimplemented: StatusCode.UNIMPLEMENTED,
        errors.FailedPrecondition: StatusCode.FAILED_PRECONDITION,
        errors.Unavailable: StatusCode.UNAVAILABLE,
        errors.Exhausted: StatusCode.RESOURCE_EXHAUSTED,
        errors.DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
        errors.Cancelled: StatusCode.CANCELLED,
        errors.InferenceFailed: StatusCode.INTERNAL,
    }
)
"""The branches of the tree; a class below one of them has its branch's code."""

PUSHBACK = "grpc-retry-pushback-ms"
"""The trailer by which a server tells gRPC's retry policy how long to wait (gRFC A6)."""


def status_code(error: BaseException) -> StatusCode:
    """Return the code of an error; INTERNAL for whatever is not in the tree."""
    for kind in type(error).__mro__:
        code = CODES.get(kind)
        if code is not None:
            return code
    return StatusCode.INTERNAL


def status_error(error: BaseException, method: str) -> StatusError:
    """Translate an error into the end of a call, and log the cause when the client is not told it."""
    if isinstance(error, StatusError):
        return error
    code = status_code(error)
    if code is StatusCode.INTERNAL:
        return _internal(error, method)
    return StatusError(code, str(error), _trailers(error))


def reason(error: BaseException) -> str:
    """Return the bounded metric label of an error."""
    return error.reason if isinstance(error, errors.ServingError) else "internal"


def _internal(error: BaseException, method: str) -> StatusError:
    request_id = secrets.token_hex(8)
    log.event("internal_error", logging.ERROR, cause=error, request_id=request_id, method=method)
    return StatusError(StatusCode.INTERNAL, f"internal error, logged by the server as request {request_id}")


def _trailers(error: BaseException) -> Metadata:
    after = getattr(error, "retry_after", None)
    return () if after is None else ((PUSHBACK, str(max(0, round(after * 1000)))),)
