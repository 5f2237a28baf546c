"""Requests that come together start as one batch, not the first of them alone and the others behind it.

A transport's thread that has several requests at hand says so (`transports.base.Gather`): schedulers then leave
starting to it, once for all that it submits between two flushes. What other threads submit is started at once.
This module must never know a transport or what a scheduler is.
"""

import socket
import threading
from collections.abc import Callable

Start = Callable[[], None]
AddReader = Callable[[socket.socket, Callable[[], bool], Callable[[], None]], bool]
"""Has a function called on one thread whenever a socket can be read, until it returns False; then, or when that thread
ends, the other one. Returns False itself where nobody is there to do so."""


class Bundle:
    """Belongs to the thread that calls `begin`; `leave` may be asked by any."""

    def __init__(self) -> None:
        self._thread = 0
        self._starts: dict[Start, None] = {}
        self.crowded = 0.0
        """Seconds of the longest wait that `crowd` was told of since `pause` was asked."""
        self._add_reader: AddReader | None = None

    def begin(self, add_reader: AddReader) -> None:
        """Say that the calling thread will flush after what it submits, and has sockets read by `add_reader`."""
        self._thread = threading.get_ident()
        self._add_reader = add_reader

    def add_reader(self, source: socket.socket, ready: Callable[[], bool], over: Callable[[], None]) -> bool:
        """See `AddReader`: have what instances answer read on the thread that has begun."""
        return self._add_reader is not None and self._add_reader(source, ready, over)

    def leave(self, start: Start) -> bool:
        """Have `start` called by the next flush; False for a thread that does not flush."""
        if threading.get_ident() != self._thread:
            return False
        self._starts[start] = None
        return True

    def crowd(self, seconds: float) -> None:
        """Hear that what was just submitted waits longer than that, whatever comes; from the thread that flushes."""
        if threading.get_ident() == self._thread:
            self.crowded = max(self.crowded, seconds)

    def pause(self) -> float:
        """Return the most that was said so since last asked."""
        pause, self.crowded = self.crowded, 0.0
        return pause

    def waiting(self) -> int:
        """Return how much is to be started."""
        return len(self._starts)

    def flush(self) -> None:
        """Start it."""
        starts, self._starts = self._starts, {}
        for start in starts:
            start()
