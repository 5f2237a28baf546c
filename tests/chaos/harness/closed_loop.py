"""Closed loops: a stated number of requests is always under way, and each answer starts the next."""

import threading
import time
from dataclasses import dataclass
from statistics import median

from server.queues.base import Queue
from tests.redis_rig import number_of, number_request

PATIENCE = 30.0


@dataclass(frozen=True)
class Loop:
    """What one run gave: requests a second, and the seconds each took."""

    rate: float
    times: list[float]
    failed: int
    cpu_us: float | None = None
    """CPU microseconds of all processes on the path, for each request."""

    @property
    def p50_ms(self) -> float:
        return 1000 * median(self.times)


class ClosedLoop:
    """Submits from the threads that answer, as a transport does; an answer to another request counts as failed."""

    def __init__(self, queue: Queue, in_flight: int) -> None:
        self._queue = queue
        self._in_flight = in_flight
        self._times: list[float] = []
        self._failed = 0
        self._left = in_flight
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._end = 0.0

    def run(self, seconds: float) -> Loop:
        """Keep going for so long, and wait for what is under way then."""
        start = time.monotonic()
        self._end = start + seconds
        for number in range(self._in_flight):
            self._next(number)
        assert self._over.wait(seconds + PATIENCE), f"{self._left} requests were never answered"
        return Loop(len(self._times) / (time.monotonic() - start), self._times, self._failed)

    def _next(self, number: int) -> None:
        sent = time.monotonic()

        def heard(outcome: object) -> None:
            now = time.monotonic()
            self._times.append(now - sent)
            self._failed += isinstance(outcome, Exception) or number_of(outcome) != number
            if now < self._end:
                self._next(number)
            else:
                self._ended()

        self._queue.submit(number_request(number), heard)

    def _ended(self) -> None:
        with self._lock:
            self._left -= 1
        if not self._left:
            self._over.set()
