"""Models whose queue has just refused a deadline, and go on refusing it for a moment without being asked.

Under overload most requests are refused for the same reason as the one before. Reading such a request, checking and
predicting it costs as much as preparing one that is served; so for `SHUT` seconds after a refusal, what comes for the
same model with about the same time left is refused by its first bytes. The next one is asked for again, so nothing is
refused longer than that after there is room. This module must never know a queue.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from server.errors import DeadlineUnreachable
from server.messages import InferRequest
from server.transports.base import Call, StatusError
from server.wire.observer import Observer, Outcome
from server.wire.reader import head_of
from server.wire.status import status_error

SHUT = 0.002
"""Seconds; a queue that refuses is many times as long."""
ALIKE = 0.95
"""A request with less time left than this part of what was refused may go before those that wait."""

Reject = Callable[[str, str, str], None]
"""Takes the model, version and reason of a refusal that its queue did not see."""


@dataclass(frozen=True, slots=True)
class _Shut:
    until: float
    least: float
    most: float
    status: StatusError
    model: str
    version: str


class Doors:
    """Of all models; any thread."""

    def __init__(self, observer: Observer, reject: Reject, clock: Callable[[], float] = time.monotonic) -> None:
        self._observer = observer
        self._reject = reject
        self._clock = clock
        self._shut: dict[tuple[bytes, bytes], _Shut] = {}

    def shut(self, call: Call, message: bytes, request: InferRequest, refusal: DeadlineUnreachable) -> None:
        """Remember a refusal, where others are sure to be like it: of a single row, all of one priority, no cache."""
        spec, head, left = request.spec, head_of(message), call.time_remaining()
        if spec is None or head is None or left is None or request.rows > 1:
            return
        if spec.config.batching.priority_levels or spec.config.response_cache:
            return
        words = DeadlineUnreachable(str(refusal).partition(",")[0], retry_after=refusal.retry_after)
        self._shut[head[:2]] = _Shut(
            self._clock() + SHUT, ALIKE * left, left, status_error(words, ""), spec.name, spec.version
        )

    def turn_away(self, call: Call, message: bytes) -> bool:
        """End a call that would only be refused again; False for one that may go on."""
        if not self._shut:  # nearly always
            return False
        head, left = head_of(message), call.time_remaining()
        shut = self._shut.get(head[:2]) if head is not None else None
        if shut is None or left is None or not shut.least <= left <= shut.most:
            return False
        if self._clock() >= shut.until:
            self._shut.clear()  # those of other models will be back with their next refusal
            return False
        status, reason = shut.status, DeadlineUnreachable.reason
        call.fail(status.code, status.details, status.trailers)
        self._reject(shut.model, shut.version, reason)
        self._observer.finished(
            Outcome(call.method, status.code, 0.0, call.peer, shut.model, shut.version, reason, metadata=call.metadata)
        )
        return True
