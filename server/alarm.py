"""One timer thread for everything that happens at an instant: deadlines, queue delays.

A `threading.Timer` each would be a thread each, and polling burns an idle machine. Callers keep no handles: an alarm
that is no longer wanted rings, finds nothing to do and costs a microsecond, which is cheaper than cancelling it.
This module must never know what its callbacks do.
"""

import heapq
import itertools
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

Callback = Callable[[], None]


class Alarm(Protocol):
    """Calls back at instants of one monotonic clock."""

    def call_at(self, instant: float, callback: Callback) -> None:
        """Call `callback` once, soon after `instant`, from a thread of the alarm's own; it must not block."""

    def close(self) -> None:
        """Forget every alarm not yet rung. Idempotent; later calls of `call_at` are ignored."""


class ThreadAlarm:
    """The real one: a heap and a condition. The thread wakes up only for the earliest instant or an earlier one."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._heap: list[tuple[float, int, Callback]] = []
        self._order = itertools.count()
        self._closed = False
        self._thread = threading.Thread(target=self._ring, name="alarm", daemon=True)
        self._thread.start()

    def call_at(self, instant: float, callback: Callback) -> None:
        """See `Alarm`."""
        with self._condition:
            if self._closed:
                return
            heapq.heappush(self._heap, (instant, next(self._order), callback))
            if self._heap[0][2] is callback:
                self._condition.notify()

    def close(self) -> None:
        """See `Alarm`; waits for a callback that is running, unless called from it."""
        with self._condition:
            self._closed = True
            self._heap.clear()
            self._condition.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _ring(self) -> None:
        while (callback := self._next()) is not None:
            call_isolated(callback)

    def _next(self) -> Callback | None:
        """Wait for the earliest instant and return its callback; None when closed."""
        with self._condition:
            while not self._closed:
                if not self._heap:
                    self._condition.wait()
                elif (delay := self._heap[0][0] - time.monotonic()) > 0:
                    self._condition.wait(min(delay, threading.TIMEOUT_MAX))
                else:
                    return heapq.heappop(self._heap)[2]
            return None


class ManualAlarm:
    """The fake one, which is its own clock: time stands still until `advance`."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self._heap: list[tuple[float, int, Callback]] = []
        self._order = itertools.count()
        self._closed = False

    def clock(self) -> float:
        """Return the present instant, for whoever wants a clock function."""
        return self.now

    def call_at(self, instant: float, callback: Callback) -> None:
        """See `Alarm`; an instant already past rings at the next `advance`."""
        if not self._closed:
            heapq.heappush(self._heap, (instant, next(self._order), callback))

    def close(self) -> None:
        """See `Alarm`."""
        self._closed = True
        self._heap.clear()

    @property
    def next_instant(self) -> float | None:
        """When the next alarm rings, None if there is none."""
        return self._heap[0][0] if self._heap else None

    def advance(self, until: float) -> None:
        """Ring everything due up to `until`, each at its own instant and in order, and stop there."""
        while self._heap and self._heap[0][0] <= until:
            instant, _, callback = heapq.heappop(self._heap)
            self.now = max(self.now, instant)
            callback()
        self.now = max(self.now, until)


def call_isolated(callback: Callable[..., None], *arguments: object) -> None:
    """Call somebody else's code so that its bug is reported like any thread's and stays its own."""
    try:
        callback(*arguments)
    except Exception:  # noqa: BLE001 - an isolation point: one callback's bug must not silence all the others
        kind, value, trace = sys.exc_info()
        assert kind is not None  # noqa: S101 - inside an except clause; tells the type checker
        threading.excepthook(threading.ExceptHookArgs((kind, value, trace, threading.current_thread())))
