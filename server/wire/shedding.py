"""What a call hears that came when too many others waited to be looked at, or whose like has just been refused.

Cheap is the point: under overload this happens to every second call, before there is a call. The words are made once.
"""

from collections.abc import Sized

from server.errors import DeadlineUnreachable, ServingError
from server.transports.base import Metadata
from server.wire.auth import Scope
from server.wire.gate import Gate
from server.wire.refusals import Refusal, Refusals
from server.wire.status import status_error

_RETRY_AFTER = 0.1
"""Seconds; a server that sheds works off what it has accepted within its callers' deadlines, and those are short."""
_REFUSAL = DeadlineUnreachable(
    "expected a deadline later than the requests in front of this one need; this server is overloaded",
    retry_after=_RETRY_AFTER,
)


class Shedding:
    """`transports.base.Shed` of the inference methods."""

    def __init__(self, gate: Gate, method: str, refusals: Refusals | None = None) -> None:
        """Begin.

        Args:
            gate: its observer hears of the calls, its authenticator says who may hear of a refusal.
            method: the path of the method that they are calls of.
            refusals: what was refused a moment ago, where messages of the method can be told apart by it.
        """
        self.status = status_error(_REFUSAL, "")
        self._gate = gate
        self._method = method
        self._refusals = refusals
        self.recent: Sized = refusals.recent if refusals is not None else ()

    def refuse(self, message: bytes, seconds: float, metadata: Metadata, waited: float) -> Refusal | None:
        """See `transports.base.Shed.refuse`."""
        if self._refusals is None or (waited and self._refusals.none_for(waited)):
            return None  # what was known when it came, it was asked about then
        known = self._refusals.find(message, seconds)
        if known is None or not self._welcome(metadata) or self._refusals.passes(known, waited):
            return None
        return known

    def count(self, calls: int) -> None:
        """Tell the observer of all that were turned away since it was last told."""
        if calls:
            self._gate.observer.shed(self._method, self.status.code, _REFUSAL.reason, calls)
        if self._refusals is not None:
            self._refusals.tell(self._method)

    def _welcome(self, metadata: Metadata) -> bool:
        """Whether a caller may know; one who may not is told so by the handler, and takes nobody's place."""
        try:
            self._gate.authenticator.check(metadata, Scope.INFER)
        except ServingError:
            return False
        return True
