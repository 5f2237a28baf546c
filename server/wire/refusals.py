"""A negative cache: what a model's queue has just refused is refused for a moment without asking it.

Under overload most requests are refused for the same reason as the one before. Reading such a request, checking and
predicting it costs as much as preparing one that is served; so for `KEPT` seconds after a refusal, what comes for the
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

KEPT = 0.002
"""Seconds; a queue that refuses is many times as long."""
ALIKE = 0.95
"""A request with less time left than this part of what was refused may go before those that wait."""

Reject = Callable[[str, str, str], None]
"""Takes the model, version and reason of a refusal that its queue did not see."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    until: float
    least: float
    most: float
    status: StatusError
    model: str
    version: str


class Refusals:
    """The latest of each model; belongs to the threads that hand over calls, any of which may forget them."""

    def __init__(self, observer: Observer, reject: Reject, clock: Callable[[], float] = time.monotonic) -> None:
        self._observer = observer
        self._reject = reject
        self._clock = clock
        self._recent: dict[tuple[bytes, bytes], _Refusal] = {}

    def remember(self, call: Call, message: bytes, request: InferRequest, refusal: DeadlineUnreachable) -> None:
        """Remember a refusal, where others are sure to be like it: of a single row, all of one priority, no cache."""
        spec, head, left = request.spec, head_of(message), call.time_remaining()
        if spec is None or head is None or left is None or request.rows > 1:
            return
        if spec.config.batching.priority_levels or spec.config.response_cache:
            return
        words = DeadlineUnreachable(str(refusal).partition(",")[0], retry_after=refusal.retry_after)
        self._recent[head[:2]] = _Refusal(
            self._clock() + KEPT, ALIKE * left, left, status_error(words, ""), spec.name, spec.version
        )

    def repeat(self, call: Call, message: bytes) -> bool:
        """End a call that would only be refused again; False for one that may go on."""
        if not self._recent:  # nearly always
            return False
        head, left = head_of(message), call.time_remaining()
        known = self._recent.get(head[:2]) if head is not None else None
        if known is None or left is None or not known.least <= left <= known.most:
            return False
        if self._clock() >= known.until:
            self._recent.clear()  # those of other models will be back with their next refusal
            return False
        status, reason = known.status, DeadlineUnreachable.reason
        call.fail(status.code, status.details, status.trailers)
        self._reject(known.model, known.version, reason)
        self._observer.finished(
            Outcome(
                call.method, status.code, 0.0, call.peer, known.model, known.version, reason, metadata=call.metadata
            )
        )
        return True
