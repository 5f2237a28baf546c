"""A negative cache: what a model's queue has just refused is refused without asking it, but for what there is room for.

Under overload most requests are refused for the same reason as the one before. Reading such a request, checking and
predicting it costs as much as preparing one that is served. So for a while after a refusal, what comes for the same
model with about the same time left is refused by its first bytes, except for as many as have begun to run since. This
module must never know a queue.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from server.errors import DeadlineUnreachable
from server.messages import InferRequest
from server.spec import ModelSpec
from server.transports.base import Call, StatusError
from server.wire.observer import Observer
from server.wire.reader import NAME_TAG, VERSION_TAG, head_of
from server.wire.status import status_error

KEPT = 0.3
"""For how long, as a part of the time that the refused request had left; no longer than what waits before it takes."""
SHORTEST = 0.002
"""Seconds below which nothing is remembered: about as long as a slice of calls takes."""
PASSING = 0.9
"""Of the rows that instances have been given meanwhile, the part in whose place others may pass.

All of them would keep the queue where it refuses, so that some would be let pass only to be refused when it is their
turn, after they have cost most of what a served one does. The queue makes up for the rest when this has passed. They
are counted and not reckoned from a rate: where batches are long next to deadlines, queues are short, and one where that
was wrong by a little ran empty (MNIST in batches of 64 rows, which take 20 ms of 100).
"""
SOONER, LATER = 0.95, 1.1
"""A request is like the refused one if it has at least this part of its time left, for with less it may go before those
that wait, and less than this part of what would have been needed."""

Reject = Callable[[str, str, str, int], None]
"""Takes the model, version, reason and number of refusals that its queue did not see."""
_REASON = DeadlineUnreachable.reason


@dataclass(slots=True)
class Refusal:
    """What is known of the next requests for a model."""

    at: float
    """When it was refused."""
    until: float
    """When it is forgotten."""
    left: float
    """Seconds that it had; those that had about as many, or more, are like it."""
    needed: float
    """Seconds that it would have needed."""
    taken: Callable[[], int]
    """How many rows the model's instances have been given so far."""
    taken_then: int
    """How many it was when this was refused: there is room for as many as came since."""
    status: StatusError
    beginning: bytes
    """How messages for the model begin: with its name and version, and what comes next is not one of them."""
    model: str
    version: str
    untold: "list[Refusal]"
    """Those with calls of whom nobody was told."""
    passed: int = 0
    """How many were let pass since, into the room that has become free."""
    calls: int = 0

    @property
    def alike(self) -> int:
        """Bytes by which they are known."""
        return len(self.beginning)

    def count(self, calls: int) -> None:
        """Remember that so many calls were refused by it."""
        if not self.calls:
            self.untold.append(self)
        self.calls += calls


class Refusals:
    """The latest of each model; belongs to the thread that hands over calls, but any may remember one."""

    def __init__(self, observer: Observer, reject: Reject, clock: Callable[[], float] = time.monotonic) -> None:
        self.recent: dict[tuple[bytes, bytes], Refusal] = {}
        """By model and version as callers write them; nearly always empty."""
        self._observer = observer
        self._reject = reject
        self._clock = clock
        self._untold: list[Refusal] = []
        self._until = 0.0
        """When none of them counts any more."""
        self._newest: Refusal | None = None

    def remember(self, call: Call, message: bytes, request: InferRequest, refusal: DeadlineUnreachable) -> None:
        """Remember a refusal, where others are sure to be like it: of a single row, all of one priority, no cache.

        The message's first bytes name the model that it was for.
        """
        spec, head = request.spec, head_of(message)
        if spec is None or head is None or call.deadline is None or request.rows > 1:
            return
        if spec.config.batching.priority_levels or spec.config.response_cache or _has_less(spec, request):
            return
        alike = 3 + len(head[0]) + (2 + len(head[1]) if head[1] else 0)
        if message[alike - 1] in (NAME_TAG, VERSION_TAG):
            return  # said again: what the message is for would not be known by its beginning
        now, taken = self._clock(), refusal.taken
        left = min(call.deadline, request.deadline) - now
        kept = min(KEPT * left, refusal.wait)
        if taken is None or kept < SHORTEST:
            return
        words = DeadlineUnreachable(str(refusal).partition(",")[0], retry_after=refusal.retry_after)
        needed = left + (refusal.retry_after or 0.0)
        self._until = max(self._until, now + kept)
        self._newest = self.recent[head[:2]] = Refusal(
            now,
            now + kept,
            left,
            needed,
            taken,
            taken(),
            status_error(words, ""),
            message[:alike],
            spec.name,
            spec.version,
            self._untold,
        )

    def find(self, message: bytes, left: float) -> Refusal | None:
        """Return the refusal of one like a message with so many seconds left."""
        now = self._clock()
        if now >= self._until:
            self.recent.clear()  # whatever the message is for: until then all are asked about
            return None
        known = self._newest
        if known is None or not message.startswith(known.beginning):  # it nearly always does
            head = head_of(message)
            known = self.recent.get(head[:2]) if head is not None else None
        if known is None or now >= known.until:
            return None
        return known if SOONER * known.left <= left < LATER * known.needed else None

    def none_for(self, seconds: float) -> bool:
        """Whether no request was refused in so many seconds."""
        return self._newest is None or self._clock() - self._newest.at >= seconds

    def passes(self, known: Refusal, waited: float) -> bool:
        """Whether a call whose like was refused may go on all the same.

        One that has just come, which `waited` 0 seconds, may where there is room again. One that has waited has been
        let pass, and is like those that were refused after it came.
        """
        age = self._clock() - known.at
        if waited:
            return age >= waited
        if known.passed < PASSING * (known.taken() - known.taken_then):
            known.passed += 1
            return True
        return False

    def tell(self, method: str) -> None:
        """Have them counted, as calls of a method."""
        while self._untold:
            known = self._untold.pop()
            calls, known.calls = known.calls, 0
            self._reject(known.model, known.version, _REASON, calls)
            self._observer.shed(method, known.status.code, _REASON, calls, known.model, known.version)


def _has_less(spec: ModelSpec, request: InferRequest) -> bool:
    """Whether the queue gives a request less time than its caller does: others with as much would not be like it."""
    policy = spec.config.batching.default_queue_policy
    return bool(policy.default_timeout or (policy.allow_timeout_override and request.timeout))
