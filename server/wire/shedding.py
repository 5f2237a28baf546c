"""What a call hears that came when too many others waited to be looked at: nobody reads its message.

Cheap is the point: under overload this happens to every second call. The words are made once.
"""

from server.errors import DeadlineUnreachable
from server.transports.base import Call, StatusError
from server.wire.gate import Gate
from server.wire.observer import Outcome
from server.wire.status import status_error

_RETRY_AFTER = 0.1
"""Seconds; a server that sheds works off what it has accepted within its callers' deadlines, and those are short."""
_REFUSAL = DeadlineUnreachable(
    "expected a deadline later than the requests in front of this one need; this server is overloaded",
    retry_after=_RETRY_AFTER,
)


class Shedding:
    """`transports.base.Shed` of the inference methods."""

    def __init__(self, gate: Gate) -> None:
        self._observer = gate.observer
        self._status = status_error(_REFUSAL, "")

    def __call__(self, call: Call) -> StatusError:
        """Count the call as refused and return how it ends."""
        status = self._status
        self._observer.finished(
            Outcome(call.method, status.code, 0.0, call.peer, reason=_REFUSAL.reason, metadata=call.metadata)
        )
        return status
