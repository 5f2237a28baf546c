"""What a call hears that came when too many others waited to be looked at: nobody reads its message.

Cheap is the point: under overload this happens to every second call. The words are made once.
"""

from server.errors import DeadlineUnreachable
from server.wire.gate import Gate
from server.wire.status import status_error

_RETRY_AFTER = 0.1
"""Seconds; a server that sheds works off what it has accepted within its callers' deadlines, and those are short."""
_REFUSAL = DeadlineUnreachable(
    "expected a deadline later than the requests in front of this one need; this server is overloaded",
    retry_after=_RETRY_AFTER,
)


class Shedding:
    """`transports.base.Shed` of the inference methods."""

    def __init__(self, gate: Gate, method: str) -> None:
        """Begin.

        Args:
            gate: its observer hears of the calls.
            method: the path of the method that they are calls of.
        """
        self.status = status_error(_REFUSAL, "")
        self._observer = gate.observer
        self._method = method

    def count(self, calls: int) -> None:
        """Tell the observer of so many calls."""
        self._observer.shed(self._method, self.status.code, _REFUSAL.reason, calls)
