"""Every way a request can end badly, as one tree that knows no transport.

    ServingError
    +- InvalidRequest            the caller must change the request
    |  +- InvalidValues          well formed, but the model cannot compute these values
    +- NotFound
    |  +- ModelNotFound          no such model or version
    |  +- JobNotFound
    +- AlreadyExists             the same idempotency key with another request
    +- Unauthenticated
    +- PermissionDenied
    +- Unimplemented
    +- FailedPrecondition        something must be done first; the message says what
    |  +- NeedsRedis
    |  +- ModelLoadFailed
    +- Unavailable               another replica, or this one a moment later, may do it
    |  +- ModelNotReady
    |  +- ShuttingDown
    |  +- QueueUnavailable
    +- Exhausted                 back off; `retry_after` says how long
    |  +- QueueFull
    |  +- DeadlineUnreachable    the predicted start already misses the deadline
    |  +- TooLarge               the message, or what it asks for, is over a limit
    +- DeadlineExceeded
    +- Cancelled
    +- InferenceFailed           ours; the client sees a fixed text and the request id

`wire/status.py` maps the tree to gRPC status codes and a test proves that map complete. The message of every
class but InferenceFailed travels to the client: it must name what was expected and what came, and never a path,
a class name or more than 64 characters of the caller's own input.
"""

from collections.abc import Callable
from typing import ClassVar


class ServingError(Exception):
    """Base of everything a caller can be told; `reason` is the bounded metric label."""

    reason: ClassVar[str] = "error"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which a retry makes sense; None where a retry cannot help or needs no hint."""


class InvalidRequest(ServingError):
    """The request contradicts what the model's metadata promises."""

    reason = "invalid"


class InvalidValues(InvalidRequest):
    """The request is well formed, but the model cannot compute its values (an index out of range, say)."""

    reason = "invalid_values"


class NotFound(ServingError):
    """What the request names does not exist here."""

    reason = "not_found"


class ModelNotFound(NotFound):
    """No such model, or no such version of it."""

    reason = "model_not_found"


class JobNotFound(NotFound):
    """No such job, or its record has expired."""

    reason = "job_not_found"


class AlreadyExists(ServingError):
    """An idempotency key was used again for another request."""

    reason = "already_exists"


class Unauthenticated(ServingError):
    """No valid credentials came with the call."""

    reason = "unauthenticated"


class PermissionDenied(ServingError):
    """The credentials are valid and do not allow this."""

    reason = "permission_denied"


class Unimplemented(ServingError):
    """The protocol has it, this server does not."""

    reason = "unimplemented"


class FailedPrecondition(ServingError):
    """Something must be done before this can work; the message says what."""

    reason = "failed_precondition"


class NeedsRedis(FailedPrecondition):
    """Durable jobs were asked of a server that runs with the in-process queue."""

    reason = "needs_redis"


class ModelLoadFailed(FailedPrecondition):
    """A model version could not be brought into service; the one before it goes on serving."""

    reason = "load_failed"


class Unavailable(ServingError):
    """Not now, not here; a retry elsewhere or later may succeed."""

    reason = "unavailable"


class ModelNotReady(Unavailable):
    """The model exists and is not serving at the moment."""

    reason = "not_ready"


class ShuttingDown(Unavailable):
    """This server is draining."""

    reason = "shutting_down"


class QueueUnavailable(Unavailable):
    """The queue behind this frontend cannot be reached."""

    reason = "queue_unavailable"


class Exhausted(ServingError):
    """A limit is reached; the caller should back off."""

    reason = "exhausted"


class QueueFull(Exhausted):
    """The bounded queue is full."""

    reason = "queue_full"


class DeadlineUnreachable(Exhausted):
    """The predicted start of this request already misses its deadline, so it is refused at once.

    `wait` is how many seconds those before it take, 0 where that is not known; `taken` tells how many rows the model's
    instances have been given so far: so many may come in the place of those that were there.
    """

    reason = "predicted_miss"

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        wait: float = 0.0,
        taken: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.wait = wait
        self.taken = taken


class TooLarge(Exhausted):
    """The message, or the output it asks for, is over a limit."""

    reason = "too_large"


class DeadlineExceeded(ServingError):
    """The deadline passed, or can no longer be met, before the model ran."""

    reason = "expired"


class Cancelled(ServingError):
    """The caller left."""

    reason = "cancelled"


class InferenceFailed(ServingError):
    """The run broke and it was not the caller's doing; the cause is in our log under the request id."""

    reason = "failed"
