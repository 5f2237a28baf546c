"""One thread that sees to it that no run outlives its bound, at next to no cost per run.

A run only stores its deadline. The thread sleeps until the earliest deadline it knows of and then looks again, so it
is woken only when a deadline comes that is earlier than all it knew: about once per timeout, not once per run.
"""

import threading
import time
from typing import Protocol


class Watched(Protocol):
    """Something with a deadline."""

    def check(self, now: float) -> float:
        """Act on what is overdue at `now` and return when to look again, infinity while nothing runs.

        Called on the watchdog's thread; must not block or raise.
        """


class Watchdog:
    """Looks at everything it watches when it is due. The thread starts with the first thing to watch."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watched: set[Watched] = set()
        self._wake = float("inf")
        self._thread: threading.Thread | None = None

    def watch(self, watched: Watched) -> None:
        """Look after `watched` until `forget`."""
        with self._changed:
            self._watched.add(watched)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                self._thread.start()

    def forget(self, watched: Watched) -> None:
        """Stop looking after it; the thread ends with the last one."""
        with self._changed:
            self._watched.discard(watched)
            self._changed.notify()

    def expect(self, deadline: float) -> None:
        """Hear that something will be due at `deadline`. Almost always one comparison."""
        if deadline < self._wake:
            with self._changed:
                self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while self._watched:
                self._wake = float("inf")  # whatever is announced while we look must wake us again
                now = time.monotonic()
                self._wake = min(watched.check(now) for watched in self._watched)
                self._changed.wait(None if self._wake == float("inf") else max(0.0, self._wake - now))
            self._thread = None
